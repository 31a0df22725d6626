package main

import (
	"strings"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/internal/manual"
)

// configPage is evpnd.yaml(5): the reference, every key of it commented.
func configPage() manual.Page {
	var b strings.Builder
	b.WriteString(`evpnd.yaml 5 "" evpnd evpnd
===

# NAME

evpnd.yaml - configuration of evpnd

# SYNOPSIS

/etc/evpnd/evpnd.yaml, /etc/evpnd/conf.d/\*.yaml

# DESCRIPTION

The configuration of **evpnd**(8). It is read at the start, and again by **evpnctl reload** or SIGHUP: all of it is taken,
or, when anything in it is wrong, nothing. **evpnd check** finds what is wrong without a daemon. This is every key:

`)
	for line := range strings.Lines(config.Reference) {
		b.WriteString("    " + line)
	}
	b.WriteString("\n# SEE ALSO\n\n**evpnd**(8), **evpnctl**(1)\n")
	return manual.Page{Name: "evpnd.yaml.5", Markdown: b.String()}
}
