package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
)

// clientConfig is the user's own file. Flags and the environment come before it.
type clientConfig struct {
	Targets yaml.MapSlice `yaml:"targets"` // names to targets, asked in this order when nothing else is said
	Cert    string        `yaml:"cert"`
	Key     string        `yaml:"key"`
	CA      string        `yaml:"ca"`
}

// clientConfigPath is the file that EVPNCTL_CONFIG names, else evpnctl/config.yaml in the user's configuration folder, which
// need not be there; "": there is no such folder.
func clientConfigPath() (path string, wanted bool) {
	if path := os.Getenv("EVPNCTL_CONFIG"); path != "" {
		return path, true
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", false
	}
	return filepath.Join(dir, "evpnctl", "config.yaml"), false
}

// readClientConfig reads the user's file; none is no error unless it is wanted, and neither is another user's, whose home a
// process may have kept. Paths in it start at its folder.
func readClientConfig() (cfg clientConfig, err error) {
	path, wanted := clientConfigPath()
	if path == "" {
		return cfg, nil
	}
	data, err := os.ReadFile(path)
	if !wanted && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		return cfg, nil
	}
	if err != nil {
		return cfg, fmt.Errorf("read the configuration of evpnctl: %w", err)
	}
	if err := yaml.UnmarshalWithOptions(data, &cfg, yaml.Strict()); err != nil {
		return clientConfig{}, fmt.Errorf("%s: %s", path, yaml.FormatError(err, false, true))
	}
	for _, file := range []*string{&cfg.Cert, &cfg.Key, &cfg.CA} {
		if *file != "" && !filepath.IsAbs(*file) {
			*file = filepath.Join(filepath.Dir(path), *file)
		}
	}
	return cfg, nil
}

// configure fills in what flags may then replace: from the environment, else from the user's file. What is wrong with that
// is told when a target is asked.
func (c *cli) configure() {
	var cfg clientConfig
	cfg, c.wrong = readClientConfig()
	c.known = map[string]string{}
	for _, item := range cfg.Targets {
		name, target := fmt.Sprint(item.Key), fmt.Sprint(item.Value)
		c.known[name] = target
		c.targets = append(c.targets, name)
	}
	if len(c.targets) == 0 {
		c.targets = []string{defaultTarget}
	}
	if t := os.Getenv("EVPND_TARGET"); t != "" {
		c.targets = strings.Split(t, ",")
	}
	c.tls = tlsFiles{fromEnv("EVPND_CERT", cfg.Cert), fromEnv("EVPND_KEY", cfg.Key), fromEnv("EVPND_CA", cfg.CA)}
}

func fromEnv(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
