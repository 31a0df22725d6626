package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// field is a scalar of the file that remembers where it stands. The zero field is a key that no file has.
type field[T any] struct {
	at    place
	value T
	valid bool // value may be used; false also when the file has the key with a bad value
}

// given reports whether a file has the key, be its value good or bad.
func (f field[T]) given() bool { return f.at.src != nil }

// or returns the value, or the default of an absent key.
func (f field[T]) or(def T) T {
	if f.valid {
		return f.value
	}
	return def
}

// setter takes the value of a key.
type setter func(d *decoder, key string, n ast.Node)

// fields are the keys a mapping may have.
type fields map[string]setter

// reader turns the text of a scalar into a value. Its error says what is wrong and what is allowed.
type reader[T any] func(text string) (T, error)

// decoder walks the syntax tree of one file and stores what it finds through setters; a fault is reported and the walk
// goes on. goccy's own decoder is not used because it ends at the first fault.
type decoder struct {
	*collector
	src *source
}

// scalar stores one value.
func scalar[T any](into *field[T], read reader[T]) setter {
	return func(d *decoder, key string, n ast.Node) {
		at := placeOf(d.src, n)
		if into.given() {
			d.report(at, "%s is already set at %s: only one file may set it", key, into.at)
			return
		}
		*into = readScalar(d, key, n, read)
	}
}

// scalars appends a list of values.
func scalars[T any](into *[]field[T], read reader[T]) setter {
	return list(func(d *decoder, key string, n ast.Node) {
		*into = append(*into, readScalar(d, key, n, read))
	})
}

// section decodes a mapping.
func section(known fields) setter {
	return func(d *decoder, key string, n ast.Node) {
		if _, empty := n.(*ast.NullNode); !empty {
			d.mapping(key, n, known)
		}
	}
}

// list hands each element of a list to element.
func list(element setter) setter {
	return func(d *decoder, key string, n ast.Node) {
		switch n := n.(type) {
		case *ast.NullNode: // a key whose elements are all commented out
		case *ast.SequenceNode:
			for _, e := range n.Values {
				element(d, key, e)
			}
		default:
			d.wrongKind(key, n, "a list")
		}
	}
}

// refuse reports a key that has no meaning here though it has one elsewhere.
func refuse(why string) setter {
	return func(d *decoder, key string, n ast.Node) { d.report(placeOf(d.src, n), "%s: %s", key, why) }
}

func readScalar[T any](d *decoder, key string, n ast.Node, read reader[T]) field[T] {
	f := field[T]{at: placeOf(d.src, n)}
	text, ok := scalarText(n)
	if !ok {
		d.wrongKind(key, n, "one value")
		return f
	}
	value, err := read(text)
	if err != nil {
		d.report(f.at, "%s: %v", key, err)
		return f
	}
	f.value, f.valid = value, true
	return f
}

// mapping hands the values of n to the setters of their keys; false when n is no mapping, which is reported. name is
// what n is called in messages.
func (d *decoder) mapping(name string, n ast.Node, known fields) bool {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		d.wrongKind(name, n, "keys with values")
		return false
	}
	seen := map[string]place{}
	for _, entry := range m.Values {
		key, at, ok := d.key(entry)
		if !ok {
			continue
		}
		if first, again := seen[key]; again {
			d.report(at, "%s is already set at %s", key, first)
			continue
		}
		seen[key] = at
		if set, ok := known[key]; ok {
			set(d, key, entry.Value)
		} else {
			d.report(at, "unknown key %q%s", key, hint(key, known))
		}
	}
	return true
}

// key returns the text and the place of an entry's key; false when it is no plain key, which is reported.
func (d *decoder) key(entry *ast.MappingValueNode) (string, place, bool) {
	at := placeOf(d.src, entry.Key)
	if text, ok := scalarText(entry.Key); ok {
		return text, at, true
	}
	if entry.Key.IsMergeKey() {
		d.report(at, "merge keys are not supported: write the keys out")
	} else {
		d.report(at, "want a plain key, have %s", kind(entry.Key))
	}
	return "", place{}, false
}

func (d *decoder) wrongKind(key string, n ast.Node, want string) {
	at := placeOf(d.src, n)
	switch n := n.(type) {
	case *ast.NullNode:
		d.report(at, "%s has no value: want %s, or leave the key out", key, want)
	case *ast.AliasNode:
		name, _ := scalarText(n.Value)
		d.report(at, "%s: *%s is an alias of YAML, which is not supported: quote a value that begins with *", key, name)
	default:
		d.report(at, "%s: want %s, have %s", key, want, kind(n))
	}
}

// scalarText returns the text of a scalar as the file has it, quotes and escapes resolved. The keys have one type each,
// so it does not matter what YAML takes the text for; templates may quote numbers.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	case *ast.MappingNode:
		return splitText(n)
	default:
		return "", false
	}
}

// splitText undoes what goccy/go-yaml 1.19.2 makes of a plain scalar with a colon in a list within braces, such as
// {import: [65000:100]}: a mapping, where YAML wants a space behind the colon.
func splitText(m *ast.MappingNode) (string, bool) {
	if m.IsFlowStyle || len(m.Values) != 1 {
		return "", false
	}
	entry := m.Values[0]
	colon, value := entry.GetToken().Position, entry.Value.GetToken().Position
	if colon.Line != value.Line || colon.Column+1 != value.Column {
		return "", false
	}
	left, leftOK := scalarText(entry.Key)
	right, rightOK := scalarText(entry.Value)
	return left + ":" + right, leftOK && rightOK
}

func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode:
		return "keys with values"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing"
	case *ast.AnchorNode:
		return "an anchor, which is not supported"
	case *ast.AliasNode:
		return "an alias, which is not supported"
	case *ast.TagNode:
		return "a tag, which is not supported"
	case *ast.MappingKeyNode:
		return "a complex key"
	default:
		return "one value"
	}
}

// placeOf is where a node begins. The token of a mapping in block style is its first colon, so its first key counts.
func placeOf(src *source, n ast.Node) place {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return placeOfToken(src, m.Values[0].Key.GetToken())
	}
	return placeOfToken(src, n.GetToken())
}

func placeOfToken(src *source, t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{src: src}
	}
	return place{src, max(1, t.Position.Line), max(1, t.Position.Column)}
}

// hint names the known key that was probably meant, else all of them.
func hint(key string, known fields) string {
	names := slices.Sorted(maps.Keys(known))
	best := slices.MinFunc(names, func(a, b string) int { return distance(key, a) - distance(key, b) })
	if distance(key, best) <= max(1, len(best)/3) {
		return fmt.Sprintf(": did you mean %q?", best)
	}
	return ": known here are " + strings.Join(names, ", ")
}

// distance is the number of characters to insert, delete or replace (Levenshtein) to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
