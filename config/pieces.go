package config

import (
	"slices"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// pieceKeys is how many VNIs are parsed at a time.
const pieceKeys = 64

// parseYAML makes the syntax tree of a file. The parser of goccy/go-yaml 1.19.2 calls itself for what follows each key of a
// mapping, copies all of it once more on the way back, and moves all tokens that follow a key without a value: 16,000
// VNIs took seconds. So the VNIs are given to it in pieces. Where one of them is not as expected, the whole file is.
func parseYAML(data []byte) (*ast.File, error) {
	if rest, pieces := cutVNIs(withoutComments(lexer.Tokenize(string(data)))); len(pieces) > 0 {
		if file := parsePieces(rest, pieces); file != nil {
			return file, nil
		}
	}
	return parseTokens(lexer.Tokenize(string(data)))
}

func withoutComments(tokens token.Tokens) token.Tokens {
	return slices.DeleteFunc(tokens, func(t *token.Token) bool { return t.Type == token.CommentType })
}

func parseTokens(tokens token.Tokens) (*ast.File, error) {
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // the decoder reports all duplicates
}

// cutVNIs takes all but the first VNIs out of the tokens of a file. There are no pieces where the VNIs are not a mapping
// in block style, or so few that the parser may have them in one go.
func cutVNIs(tokens token.Tokens) (rest token.Tokens, pieces []token.Tokens) {
	from := 0
	for from = range tokens {
		if isVNIs(tokens[from:]) {
			break
		}
	}
	from += 2
	if from >= len(tokens) || tokens[from].Type == token.SequenceEntryType {
		return tokens, nil
	}
	column := tokens[from].Position.Column
	end, flow, keys := len(tokens), 0, 0
	var cuts []int // where pieces begin
	for i := from; i < len(tokens); i++ {
		t := tokens[i]
		if flow == 0 && begins(tokens, i) {
			if t.Position.Column < column {
				end = i
				break
			}
			if t.Position.Column == column {
				if keys > 0 && keys%pieceKeys == 0 {
					cuts = append(cuts, i)
				}
				keys++
			}
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		}
	}
	if len(cuts) == 0 {
		return tokens, nil
	}
	rest = append(append(rest, tokens[:cuts[0]]...), tokens[end:]...)
	for i, cut := range cuts {
		next := end
		if i+1 < len(cuts) {
			next = cuts[i+1]
		}
		pieces = append(pieces, tokens[cut:next])
	}
	return rest, pieces
}

// isVNIs reports whether tokens begin with the top-level key vnis and a block of lines below it.
func isVNIs(tokens token.Tokens) bool {
	return len(tokens) > 2 && tokens[0].Value == "vnis" && tokens[0].Position.Column == 1 &&
		tokens[1].Type == token.MappingValueType && begins(tokens, 2) && tokens[2].Position.Column > 1
}

// begins reports whether a token is the first in its line.
func begins(tokens token.Tokens, i int) bool {
	return i == 0 || tokens[i-1].Position.Line < tokens[i].Position.Line
}

// parsePieces parses rest and puts the VNIs of all pieces behind those in it; nil when that cannot be done.
func parsePieces(rest token.Tokens, pieces []token.Tokens) *ast.File {
	file, err := parseTokens(rest)
	if err != nil {
		return nil
	}
	vnis := vnisOf(file)
	if vnis == nil {
		return nil
	}
	for _, piece := range pieces {
		part, err := parseTokens(piece)
		if err != nil || len(part.Docs) != 1 {
			return nil
		}
		switch more := part.Docs[0].Body.(type) {
		case *ast.MappingNode:
			vnis.Values = append(vnis.Values, more.Values...)
		default:
			return nil
		}
	}
	return file
}

// vnisOf finds the value of the key vnis that the pieces were cut from, which is the first.
func vnisOf(file *ast.File) *ast.MappingNode {
	for _, root := range documents(file) {
		top, _ := root.(*ast.MappingNode)
		if top == nil {
			continue
		}
		for _, entry := range top.Values {
			if key, _ := scalarText(entry.Key); key == "vnis" {
				m, _ := entry.Value.(*ast.MappingNode)
				return m
			}
		}
	}
	return nil
}
