package config

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
	"github.com/google/go-cmp/cmp"
)

// manyVNIs is a file with n VNIs in the given style.
func manyVNIs(n int, style string) string {
	var b strings.Builder
	b.WriteString("asn: 65000\nvnis: # all of them\n")
	for i := range n {
		fmt.Fprintf(&b, style, i+1)
	}
	b.WriteString("vtep: 10.255.0.1\n")
	return b.String()
}

// TestManyVNIs: cutting the VNIs into pieces gives the same tree, down to the places of faults, in every style.
func TestManyVNIs(t *testing.T) {
	styles := map[string]string{
		"blocks":       "  %[1]d:\n    import: [65000:%[1]d,\n 65000:7]\n    static-macs: sticky\n",
		"lists":        "    %[1]d:\n      export:\n      - 65000:%[1]d\n      # a remark\n    # another\n",
		"empty":        "  %d:\n",
		"flow":         "  %[1]d: {import: [65000:%[1]d], off: false}\n",
		"quoted":       "  \"%d\": \n\n",
		"not indented": "%d: {}\n",
		"a list":       "  - %d\n",
		"deeper":       "  %[1]d:\n    off: false\n     on: true\n",
		"fault":        "  %[1]d:\n    of: false\n    rd: 10.0.0.1:%[1]d\n    rd: 10.0.0.1:%[1]d\n",
		"not YAML":     "  %d: [\n",
		"anchors":      "  %[1]d: &a%[1]d\n    off: true\n",
	}
	for name, style := range styles {
		t.Run(name, func(t *testing.T) {
			n := 3*pieceKeys + 1
			text := []byte(manyVNIs(n, style))
			got, err := Parse("many.yaml", text)
			wantTree, wantErr := parseTokens(tokenize(text))
			tree, treeErr := parseYAML(text)
			if fmt.Sprint(wantErr) != fmt.Sprint(treeErr) {
				t.Fatalf("%v, in one go %v", treeErr, wantErr)
			}
			if wantErr == nil {
				if d := cmp.Diff(nodesOf(wantTree), nodesOf(tree)); d != "" {
					t.Fatalf("the tree differs (-in one go +in pieces):\n%s", d)
				}
			}
			if err == nil && len(got.VNIs) != n {
				t.Errorf("%d VNIs", len(got.VNIs))
			}
		})
	}
}

// TestManyVNIsCost: sixteen times as many VNIs cost about sixteen times as much. What is allocated tells that better than a
// clock does: the parser copies when it is slow.
func TestManyVNIsCost(t *testing.T) {
	cost := func(n int) uint64 {
		text := []byte(manyVNIs(n, "  %d:\n"))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Parse("many.yaml", text); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	small, large := cost(1000), cost(16000)
	t.Logf("1,000 VNIs: %d octets allocated, 16,000 VNIs: %d", small, large)
	if large > 20*small {
		t.Errorf("1,000 VNIs allocate %d octets, 16,000 %d", small, large)
	}
}

func tokenize(text []byte) token.Tokens { return lexer.Tokenize(string(text)) }

// nodesOf lists the nodes of a tree, each with its kind and place.
func nodesOf(file *ast.File) []string {
	var w nodeList
	for _, root := range documents(file) {
		ast.Walk(&w, root)
	}
	return w
}

type nodeList []string

func (w *nodeList) Visit(n ast.Node) ast.Visitor {
	at := n.GetToken().Position
	column := at.Column
	if n.Type() == ast.NullType {
		column = 0 // behind the colon, or one further at the end of the text
	}
	*w = append(*w, fmt.Sprintf("%T %s %d:%d", n, n.GetToken().Value, at.Line, column))
	return w
}
