// Package charts checks the Helm chart and the Kustomize base without a cluster: what they render is compared with what is
// in testdata, read strictly as the types of Kubernetes, and its evpnd.yaml is given to evpnd check.
package charts

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite what is expected in testdata")

const (
	top   = "../.."
	chart = top + "/charts/evpnd"
	base  = top + "/deploy/kustomize/base"
)

// program runs one of bin/; its error output goes to the test.
func program(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	out, errors, err := try(name, args...)
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, errors)
	}
	return out
}

func try(name string, args ...string) (out, errors []byte, err error) {
	cmd := exec.Command(filepath.Join(top, "bin", name), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err = cmd.Output()
	return out, stderr.Bytes(), err
}

func template(values string) []string {
	return []string{"template", "evpnd", chart, "--namespace", "evpnd", "--kube-version", "1.31.0", "--values", values}
}

func TestLint(t *testing.T) {
	for _, values := range valueFiles(t) {
		program(t, "tools/helm", "lint", "--strict", "--quiet", "--values", values, chart)
	}
}

func valueFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no values: %v", err)
	}
	return files
}

// TestRendered: golden files, and nothing in them that Kubernetes would not know or evpnd would refuse.
func TestRendered(t *testing.T) {
	for _, values := range valueFiles(t) {
		t.Run(filepath.Base(values), func(t *testing.T) {
			rendered := program(t, "tools/helm", template(values)...)
			golden(t, strings.TrimSuffix(values, ".values.yaml")+".golden.yaml", rendered)
			valid(t, rendered)
		})
	}
	t.Run("kustomize", func(t *testing.T) {
		rendered := program(t, "tools/kustomize", "build", base)
		golden(t, "testdata/kustomize.golden.yaml", rendered)
		valid(t, rendered)
	})
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("not as in %s; go test -update rewrites it:\n%s", path, got)
	}
}

// valid reads every object strictly.
func valid(t *testing.T, rendered []byte) {
	t.Helper()
	var configs, daemons int
	for _, text := range strings.Split("\n"+string(rendered), "\n---\n") {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(text), &kind); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		var object any
		switch kind.Kind {
		case "":
			continue
		case "DaemonSet":
			object = &appsv1.DaemonSet{}
			daemons++
		case "ConfigMap":
			object = &corev1.ConfigMap{}
			configs++
		case "Service":
			object = &corev1.Service{}
		case "Namespace":
			object = &corev1.Namespace{}
		case "ServiceMonitor", "PrometheusRule": // of an operator; the golden files show them
			continue
		default:
			t.Errorf("what is a %s?", kind.Kind)
			continue
		}
		if err := yaml.UnmarshalStrict([]byte(text), object); err != nil {
			t.Errorf("%s: %v in\n%s", kind.Kind, err, text)
		}
		switch object := object.(type) {
		case *appsv1.DaemonSet:
			restricted(t, &object.Spec.Template.Spec)
		case *corev1.ConfigMap:
			checked(t, object)
		}
	}
	if configs != 1 || daemons != 1 {
		t.Errorf("%d ConfigMaps, %d DaemonSets", configs, daemons)
	}
}

// restricted: the pod has what it needs and no more.
func restricted(t *testing.T, pod *corev1.PodSpec) {
	t.Helper()
	s := pod.Containers[0].SecurityContext
	if !pod.HostNetwork || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || *pod.AutomountServiceAccountToken {
		t.Errorf("pod %+v, container %+v", pod, s)
	}
	if len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
		t.Errorf("drops %v", s.Capabilities.Drop)
	}
	for _, c := range s.Capabilities.Add {
		if c != "NET_ADMIN" && c != "NET_RAW" && c != "NET_BIND_SERVICE" {
			t.Errorf("adds %s", c)
		}
	}
	volumes := map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
	}
	for _, m := range pod.Containers[0].VolumeMounts {
		if !volumes[m.Name] {
			t.Errorf("no volume %s", m.Name)
		}
	}
}

// checked gives each configuration to evpnd check, with the keys where it looks for them.
func checked(t *testing.T, m *corev1.ConfigMap) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rr"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range m.Data {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "/etc/evpnd-keys", dir)), 0o600); err != nil {
			t.Fatal(err)
		}
		program(t, "evpnd", "check", "-c", file)
	}
}

// TestSchema: wrong values are refused by the schema, which names them.
func TestSchema(t *testing.T) {
	for values, want := range map[string]string{
		"config: {asn: 0}": "asn",
		"config: {asn: 65000, api: {socket: /tmp/x}}":         "api",
		"config: {asn: 65000, peers: [{asn: 1}]}":             "address",
		"metrics: {port: 70000}":                              "port",
		"metrics: {adress: 1.2.3.4}":                          "adress",
		"image: {pullPolicy: Sometimes}":                      "pullPolicy",
		"replicas: 3":                                         "replicas",
		"serviceMonitor: {enabled: yes please}":               "enabled",
		"nodes: {n1: {api: {}}}":                              "api",
		"prometheusRule: {enabled: true, rules: [of my own]}": "rules",
	} {
		file := filepath.Join(t.TempDir(), "values.yaml")
		if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
			t.Fatal(err)
		}
		_, message, err := try("tools/helm", template(file)...)
		if err == nil || !strings.Contains(string(message), want) {
			t.Errorf("%s: %v, %q, want an error that names %s", values, err, message, want)
		}
	}
}

// TestRules: the chart's alert rules are those of contrib/prometheus.
func TestRules(t *testing.T) {
	var texts [2][]byte
	for i, path := range []string{top + "/contrib/prometheus/evpnd.rules.yml", chart + "/files/evpnd.rules.yml"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = text
	}
	if !bytes.Equal(texts[0], texts[1]) {
		t.Error("charts/evpnd/files/evpnd.rules.yml is not contrib/prometheus/evpnd.rules.yml: copy it")
	}
}
