package config

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// schema is a JSON Schema, or a part of one.
type schema map[string]any

// Schema returns the JSON Schema (2020-12) of configuration files and drop-ins, made from Keys, for editors. It is a first
// look and no replacement for evpnd check: it knows the keys, what kind each value is and ranges, but nothing of how values go
// together. Numbers and booleans in quotes, which evpnd takes, are not in it.
func Schema() []byte {
	top := object()
	top["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	top["title"] = "Configuration of evpnd"
	top["type"] = "object"
	sections := map[string]schema{sectionTop: top}
	for _, k := range Keys() {
		in := sections[k.Section]
		if in == nil {
			in = object()
			sections[k.Section] = in
		}
		value := k.schema()
		value["description"] = k.description()
		in.add(k.Name, value)
		if k.Default == "required" && k.Section != sectionTop { // a drop-in need not have it
			required, _ := in["required"].([]string)
			in["required"] = append(required, k.Name)
		}
	}
	for name, in := range sections {
		switch name {
		case sectionTop:
			continue
		case sectionPeers, sectionDynamicPeers:
			in["type"] = "object"
			if name == sectionPeers { // a peer without address is whoever is at the other end of its interface
				in["anyOf"] = []schema{{"required": []string{"address"}}, {"required": []string{"interface"}}}
			}
			in = schema{"type": []string{"array", "null"}, "items": in}
		case sectionVNIs:
			in = schema{
				"type": []string{"object", "null"}, "additionalProperties": in,
				"propertyNames": schema{"pattern": "^[1-9][0-9]{0,7}$"},
			}
		case sectionListen:
			in["type"] = []string{"object", "boolean", "null"}
		}
		top.add(name, in)
	}
	text, err := json.MarshalIndent(top, "", "  ")
	if err != nil { // all of it is text and numbers
		panic(fmt.Sprintf("encode the schema: %v", err))
	}
	return append(text, '\n')
}

// object is the schema of a section without keys.
func object() schema {
	return schema{"type": []string{"object", "null"}, "additionalProperties": false, "properties": schema{}}
}

func (s schema) add(key string, value schema) { s["properties"].(schema)[key] = value }

func (k Key) description() string {
	text := k.Meaning
	if k.Range != "" {
		text += ". " + k.Range
	}
	if k.Default != "" {
		text += ". Default: " + k.Default
	}
	return text + ". On reload: " + k.Effect.String()
}

// Patterns of text. They are wider than what evpnd takes.
const (
	addressPattern  = `^[0-9A-Fa-f:.]+(%\S+)?$`
	durationPattern = `^([0-9]+|([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+)$`
	rtPattern       = `^(\*|[0-9]+|[0-9]+(\.[0-9]+){3}):[0-9]+$`
)

func pattern(p string) schema { return schema{"type": "string", "pattern": p} }

func anyOf(all ...schema) schema { return schema{"anyOf": all} }

func listOfSchemas(s schema) schema { return schema{"type": []string{"array", "null"}, "items": s} }

// anyText is text that YAML may take for something else.
func anyText() schema { return schema{"type": []string{"string", "number", "boolean"}} }

func anyDuration() schema {
	return anyOf(schema{"type": "integer", "minimum": 0}, pattern(durationPattern))
}

func asNumber(words ...string) schema {
	n := schema{"type": "integer", "minimum": 1, "maximum": uint32(1<<32 - 1), "not": schema{"const": asTrans}}
	if len(words) == 0 {
		return n
	}
	return anyOf(n, schema{"enum": words})
}

// schema is what the type and the range of a key say.
func (k Key) schema() schema {
	switch k.Type {
	case "AS number":
		return asNumber()
	case "AS number, `internal` or `external`":
		return asNumber("internal", "external")
	case "AS number, `internal`, `external` or `any`":
		return asNumber("internal", "external", "any")
	case "true or false":
		return schema{"type": "boolean"}
	case "number":
		return k.numbers()
	case "word":
		return schema{"enum": strings.Split(k.Range, ", ")}
	case "words":
		return pattern(`^(graceful-restart|withdraw|keep-for \S+)$`)
	case "duration":
		return anyDuration()
	case "IP address", "IPv4 address":
		return pattern(addressPattern)
	case "list of IP addresses":
		return listOfSchemas(pattern(addressPattern))
	case "prefix":
		return pattern(`^[0-9A-Fa-f:.]+/[0-9]{1,3}$`)
	case "route distinguisher":
		return pattern(`^([0-9]+|[0-9]+(\.[0-9]+){3}):[0-9]+$`)
	case "list of route targets":
		return schema{"type": "array", "items": pattern(rtPattern), "minItems": 1}
	case "absolute path":
		return pattern("^/")
	case "host:port":
		return pattern(`^(\[[^\]]*\]|[^:\s]*):[0-9]{1,5}$`)
	case "list of names":
		return listOfSchemas(pattern(`^\S+$`))
	default:
		return k.compound()
	}
}

// compound is schema for values that have keys of their own, and for text.
func (k Key) compound() schema {
	most := schema{"type": "integer", "minimum": 0, "maximum": maxMaxRoutes}
	switch k.Type {
	case "{local, port, remote}":
		o := object()
		for _, name := range []string{"local", "port", "remote"} {
			o.add(name, most)
		}
		return o
	case "number or {limit, warn, action, idle-hold}":
		o := object()
		o.add("limit", most)
		o.add("warn", schema{"type": "integer", "minimum": 1, "maximum": 100})
		o.add("action", schema{"enum": limitActionNames})
		o.add("idle-hold", anyDuration())
		return anyOf(most, o)
	case "list of {mac, ip}":
		o := object()
		o["type"], o["required"] = "object", []string{"mac", "ip"}
		o.add("mac", pattern(`^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$`))
		o.add("ip", pattern(addressPattern))
		return listOfSchemas(o)
	default: // text, path, group, interface
		return anyText()
	}
}

// numberRange is one part of a range: 0, or 2–255.
var numberRange = regexp.MustCompile(`^([0-9]+)(?:–([0-9]+))?$`)

// numbers reads the range of a number, "0, 2–255; eBGP only", whose parts before the semicolon are numbers.
func (k Key) numbers() schema {
	parts, _, _ := strings.Cut(k.Range, ";")
	var all []schema
	for part := range strings.SplitSeq(parts, ", ") {
		m := numberRange.FindStringSubmatch(part)
		if m == nil {
			continue
		}
		from, _ := strconv.Atoi(m[1]) // both are digits
		to := from
		if m[2] != "" {
			to, _ = strconv.Atoi(m[2])
		}
		all = append(all, schema{"type": "integer", "minimum": from, "maximum": to})
	}
	if len(all) == 1 {
		return all[0]
	}
	return anyOf(all...)
}
