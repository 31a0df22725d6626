package main

import (
	"strings"
	"testing"
)

// stream is what "go test -json" prints for: a test that passes, one that is skipped, one that fails, a package that does
// not build, and one that panics in the middle of a test.
const stream = `{"Action":"start","Package":"a"}
{"Action":"output","Package":"a","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"pass","Package":"a","Test":"TestGood","Elapsed":0.1}
{"Action":"output","Package":"a","Test":"TestRoot","Output":"    a_test.go:7: needs root\n"}
{"Action":"output","Package":"a","Test":"TestRoot","Output":"--- SKIP: TestRoot (0.00s)\n"}
{"Action":"skip","Package":"a","Test":"TestRoot"}
{"Action":"pass","Package":"a","Elapsed":0.2}
{"Action":"output","Package":"b","Test":"TestBad","Output":"    b_test.go:9: got 1, want 2\n"}
{"Action":"fail","Package":"b","Test":"TestBad"}
{"Action":"fail","Package":"b","Elapsed":0.3}
{"ImportPath":"c","Action":"build-output","Output":"c.go:1:1: expected package\n"}
{"Action":"fail","Package":"c"}
{"Action":"output","Package":"d","Test":"TestPanic","Output":"panic: boom\n"}
{"Action":"fail","Package":"d"}
not JSON
`

func TestSummary(t *testing.T) {
	var out strings.Builder
	s := newSummary(&out)
	if err := s.read(strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	s.print()
	got := out.String()
	for _, want := range []string{
		"b_test.go:9: got 1, want 2\n", "c.go:1:1: expected package\n", "panic: boom\n", "not JSON\n",
		"failed: b TestBad\n", "failed: c \n", "failed: d TestPanic\n", "skipped 1: needs root\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("does not say %q:\n%s", want, got)
		}
	}
	if last := "1 passed, 3 failed, 1 skipped\n"; !strings.HasSuffix(got, last) {
		t.Errorf("does not end with %q:\n%s", last, got)
	}
	if strings.Contains(got, "RUN") {
		t.Errorf("shows the output of a test that passed:\n%s", got)
	}
}
