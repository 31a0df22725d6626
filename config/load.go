package config

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// Load reads the configuration file at path and its drop-ins: conf.d/*.yaml in the same folder, in lexical order, those
// whose name begins with a dot left out. The lists and sections of all files are joined; a scalar may be set in one of
// them only. The error, if any, is of type Faults and holds everything that is wrong.
func Load(path string) (*Config, error) {
	var l loader
	l.file(path)
	for _, dropIn := range l.dropIns(path) {
		l.file(dropIn)
	}
	return l.config()
}

// Parse is Load of one file without drop-ins whose content is data; relative paths in it start at the folder of name.
// Only files that keys name are read: password-file, certificate, key, client-ca.
func Parse(name string, data []byte) (*Config, error) {
	var l loader
	l.parse(name, data)
	return l.config()
}

// loader brings the files of one configuration together.
type loader struct {
	collector
	raw    raw
	files  []*source
	broken bool // some file was not understood as a whole, so that what seems missing may stand there
}

func (l *loader) config() (*Config, error) {
	var c *Config
	if !l.broken {
		c = (&checker{collector: &l.collector, main: l.files[0]}).config(&l.raw)
	}
	if faults := l.faults(); faults != nil {
		return nil, faults
	}
	return c, nil
}

// open adds a file to those of the configuration.
func (l *loader) open(name string, data []byte) *source {
	src := &source{name: name, order: len(l.files)}
	for line := range strings.Lines(string(data)) {
		src.lines = append(src.lines, strings.TrimRight(line, "\r\n"))
	}
	l.files = append(l.files, src)
	return src
}

func (l *loader) file(path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		l.fail(place{src: l.open(path, nil)}, "read the configuration: %v", cause(err))
		return
	}
	l.parse(path, data)
}

// fail reports what keeps a file from being understood at all.
func (l *loader) fail(at place, format string, args ...any) {
	l.broken = true
	l.report(at, format, args...)
}

// dropIns lists the drop-ins beside the main file.
func (l *loader) dropIns(path string) []string {
	dir := filepath.Join(filepath.Dir(path), "conf.d")
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			l.fail(place{src: l.open(dir, nil)}, "list the drop-ins: %v", cause(err))
		}
		return nil
	}
	var paths []string
	for _, e := range entries {
		if !e.IsDir() && filepath.Ext(e.Name()) == ".yaml" && !strings.HasPrefix(e.Name(), ".") {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths
}

// parse decodes one file into l.raw. A drop-in may be empty, the first file may not.
func (l *loader) parse(name string, data []byte) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	src := l.open(name, data)
	file, err := parseYAML(data)
	if err != nil {
		at, message := syntaxFault(src, err)
		l.fail(at, "not YAML: %s", message)
		return
	}
	switch roots := documents(file); {
	case len(roots) > 1:
		l.fail(placeOf(src, roots[1]), "a second YAML document begins here: give each one a file of its own in conf.d")
	case len(roots) == 1:
		d := decoder{collector: &l.collector, src: src}
		l.broken = !d.mapping("the file", roots[0], l.raw.keys()) || l.broken
	case src.order == 0:
		l.fail(place{src: src}, "the file is empty: the least it needs is asn, vtep (or vtep-interface) and peers")
	}
}

// documents returns the top nodes of the documents of a file that hold something.
func documents(file *ast.File) []ast.Node {
	var roots []ast.Node
	for _, doc := range file.Docs {
		if _, directive := doc.Body.(*ast.DirectiveNode); !directive && doc.Body != nil {
			roots = append(roots, doc.Body)
		}
	}
	return roots
}

// syntaxFault says where and what the parser complains about.
func syntaxFault(src *source, err error) (place, string) {
	if positioned, ok := errors.AsType[yaml.Error](err); ok {
		return placeOfToken(src, positioned.GetToken()), positioned.GetMessage()
	}
	return place{src: src}, err.Error()
}

// cause strips the path from an error of package os: the fault names the file already.
func cause(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}
