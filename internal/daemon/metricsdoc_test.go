package daemon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

const metricsDoc = "../../docs/metrics.md"

type documentedMetric struct {
	name, kind, help string
	labels           []string
}

// documented is every metric of ours, by name.
func documented(t *testing.T) []documentedMetric {
	t.Helper()
	var all []documentedMetric
	for _, m := range allMetrics {
		kind := "gauge"
		if m.kind == prometheus.CounterValue {
			kind = "counter"
		}
		all = append(all, documentedMetric{m.name, kind, m.help, m.labels})
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(newLatencies().collectors()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		all = append(all, documentedMetric{f.GetName(), strings.ToLower(f.GetType().String()), f.GetHelp(), nil})
	}
	slices.SortFunc(all, func(a, b documentedMetric) int { return strings.Compare(a.name, b.name) })
	return all
}

// TestMetricsDoc: docs/metrics.md is what the metrics say of themselves; go test -update rewrites it.
func TestMetricsDoc(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`# Metrics

With ` + "`api: {metrics: 127.0.0.1:9473}`" + ` evpnd serves ` + "`/metrics`" + ` for Prometheus, ` + "`/healthz`" + ` (200 while the loop that decides answers) and
` + "`/readyz`" + ` (200 while a session is established, the kernel has been read and refuses nothing; the body says what is missing).
There is no MAC, IP or RD among the labels. One scrape walks the tables once. Beside these there are the usual ` + "`go_*`" + ` and
` + "`process_*`" + `. [contrib/grafana](../contrib/grafana) has a dashboard, [contrib/prometheus](../contrib/prometheus) alert rules.

| metric | kind | labels | what it says |
|---|---|---|---|
`)
	for _, m := range documented(t) {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, m.kind, strings.Join(m.labels, ", "), m.help)
	}
	if *update {
		if err := os.WriteFile(metricsDoc, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(metricsDoc)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("%s is not what the metrics say (-file +code), go test -update rewrites it:\n%s", metricsDoc, d)
	}
}

// TestDashboardsAndRules: every metric that the dashboard and the alerts name exists, with the labels they name.
func TestDashboardsAndRules(t *testing.T) {
	known := map[string]documentedMetric{}
	for _, m := range documented(t) {
		known[m.name] = m
		if m.kind == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				known[m.name+suffix] = documentedMetric{name: m.name, labels: []string{"le"}}
			}
		}
	}
	name := regexp.MustCompile(`\bevpnd?_[a-z0-9_]+\b`)
	selector := regexp.MustCompile(`\b(evpnd?_[a-z0-9_]+)\{([^}]*)\}`)
	label := regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
	for what, expressions := range map[string][]string{
		"dashboard": dashboardExpressions(t),
		"rules":     ruleExpressions(t, "../../contrib/prometheus/evpnd.rules.yml"),
	} {
		if len(expressions) < 8 {
			t.Errorf("%s: only %d expressions found", what, len(expressions))
		}
		for _, e := range expressions {
			names := name.FindAllString(e, -1)
			if len(names) == 0 && !strings.Contains(e, "up{") {
				t.Errorf("%s: no metric of ours in %s", what, e)
			}
			for _, n := range names {
				if _, ok := known[n]; !ok {
					t.Errorf("%s: no metric %s, in %s", what, n, e)
				}
			}
			for _, s := range selector.FindAllStringSubmatch(e, -1) {
				for _, l := range label.FindAllStringSubmatch(s[2], -1) {
					if !slices.Contains(append(known[s[1]].labels, "job", "instance"), l[1]) {
						t.Errorf("%s: %s has no label %s, in %s", what, s[1], l[1], e)
					}
				}
			}
		}
	}
}

// dashboardExpressions are the "expr" and "query" texts of the dashboards.
func dashboardExpressions(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../contrib/grafana/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	var found []string
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				if text, ok := value.(string); ok && key == "expr" {
					found = append(found, text)
				}
				walk(value)
			}
		case []any:
			for _, value := range v {
				walk(value)
			}
		}
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var dashboard any
		if err := json.Unmarshal(text, &dashboard); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		walk(dashboard)
	}
	return found
}

func ruleExpressions(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	var found []string
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || r.Annotations["summary"] == "" {
				t.Errorf("%s: %q has no name or no summary", file, r.Expr)
			}
			found = append(found, r.Expr)
		}
	}
	return found
}
