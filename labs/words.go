package labs

import (
	"errors"
	"strings"
)

// splitWords splits a command line as a shell does for plain words: blanks separate, single and double quotes and the
// backslash keep characters together. Nothing is expanded, as in containerlab, where exec lines run without a shell.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	inWord, escaped := false, false
	for _, r := range line {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("quote or backslash without an end")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
