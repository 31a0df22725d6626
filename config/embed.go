package config

import _ "embed"

// Reference is a configuration with every key, its default, its range and what it means.
//
//go:embed reference.yaml
var Reference string
