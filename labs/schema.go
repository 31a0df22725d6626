package labs

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// The types here mirror containerlab's topology file. Keys that containerlab has and this runner does not act on are
// listed too, so that an unknown key is a fault and not silently dropped.

type rawTopology struct {
	Name     string  `yaml:"name"`
	Prefix   *string `yaml:"prefix"`
	Mgmt     any     `yaml:"mgmt"`
	Settings any     `yaml:"settings"`
	Debug    any     `yaml:"debug"`
	Topology rawBody `yaml:"topology"`
}

type rawBody struct {
	Defaults *rawNode            `yaml:"defaults"`
	Kinds    map[string]*rawNode `yaml:"kinds"`
	Groups   map[string]*rawNode `yaml:"groups"`
	Nodes    map[string]*rawNode `yaml:"nodes"`
	Links    []rawLink           `yaml:"links"`
}

type rawNode struct {
	Kind         text              `yaml:"kind"`
	Group        text              `yaml:"group"`
	Image        text              `yaml:"image"`
	Exec         []text            `yaml:"exec"`
	Binds        []text            `yaml:"binds"`
	Env          map[string]string `yaml:"env"`
	Sysctls      map[string]string `yaml:"sysctls"`
	Entrypoint   text              `yaml:"entrypoint"`
	Cmd          text              `yaml:"cmd"`
	StartupDelay uint16            `yaml:"startup-delay"`
	NetworkMode  text              `yaml:"network-mode"`
	Ignored      rawIgnored        `yaml:",inline"`
}

// rawIgnored are the keys of a node that are about containers, image pulls or vendor kinds.
type rawIgnored struct {
	ImagePullPolicy       any `yaml:"image-pull-policy"`
	RestartPolicy         any `yaml:"restart-policy"`
	License               any `yaml:"license"`
	Type                  any `yaml:"type"`
	StartupConfig         any `yaml:"startup-config"`
	EnforceStartupConfig  any `yaml:"enforce-startup-config"`
	SuppressStartupConfig any `yaml:"suppress-startup-config"`
	AutoRemove            any `yaml:"auto-remove"`
	Volumes               any `yaml:"volumes"`
	Ports                 any `yaml:"ports"`
	Credentials           any `yaml:"credentials"`
	EnvFiles              any `yaml:"env-files"`
	User                  any `yaml:"user"`
	Hostname              any `yaml:"hostname"`
	Labels                any `yaml:"labels"`
	Runtime               any `yaml:"runtime"`
	MgmtIPv4              any `yaml:"mgmt-ipv4"`
	MgmtIPv6              any `yaml:"mgmt-ipv6"`
	LinkApplyMode         any `yaml:"link-apply-mode"`
	CPU                   any `yaml:"cpu"`
	Memory                any `yaml:"memory"`
	CPUSet                any `yaml:"cpu-set"`
	Extras                any `yaml:"extras"`
	Config                any `yaml:"config"`
	Stages                any `yaml:"stages"`
	DNS                   any `yaml:"dns"`
	Certificate           any `yaml:"certificate"`
	Healthcheck           any `yaml:"healthcheck"`
	Components            any `yaml:"components"`
	Aliases               any `yaml:"aliases"`
	ShmSize               any `yaml:"shm-size"`
	CapAdd                any `yaml:"cap-add"`
	Privileged            any `yaml:"privileged"`
	CgroupnsMode          any `yaml:"cgroupns-mode"`
	CgroupParent          any `yaml:"cgroup-parent"`
	PidMode               any `yaml:"pid-mode"`
	Tmpfs                 any `yaml:"tmpfs"`
	SecurityOpts          any `yaml:"security-opts"`
	Devices               any `yaml:"devices"`
}

// decoration are the ignored keys whose absence changes nothing a lab can see; they are not worth a note.
var decoration = []string{"labels", "hostname", "healthcheck", "image-pull-policy", "restart-policy", "privileged", "cap-add"}

// keys lists what of the ignored keys is set and worth telling.
func (r rawIgnored) keys() []string {
	var set []string
	v := reflect.ValueOf(r)
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("yaml")
		if !v.Field(i).IsNil() && !slices.Contains(decoration, key) {
			set = append(set, key)
		}
	}
	return set
}

type rawLink struct {
	Type      text   `yaml:"type"`
	Endpoints []text `yaml:"endpoints"`
	MTU       int    `yaml:"mtu"`
	Vars      any    `yaml:"vars"`
	Labels    any    `yaml:"labels"`
}

// text is a scalar that remembers where it stood, for faults.
type text struct {
	value string
	place string // line:column; "" when absent from the file
}

func (t *text) UnmarshalYAML(node ast.Node) error {
	scalar, ok := node.(ast.ScalarNode)
	if !ok {
		p := node.GetToken().Position
		return fmt.Errorf("%d:%d: want one value, have a %s", p.Line, p.Column, strings.ToLower(node.Type().String()))
	}
	p := node.GetToken().Position
	t.place = fmt.Sprintf("%d:%d", p.Line, p.Column)
	if v := scalar.GetValue(); v != nil {
		t.value = fmt.Sprint(v)
	}
	return nil
}

// parse decodes a topology; unknown keys, keys given twice and values of the wrong type are faults.
func parse(b []byte) (*rawTopology, error) {
	var raw rawTopology
	if err := yaml.UnmarshalWithOptions(b, &raw, yaml.DisallowUnknownField()); err != nil {
		return nil, err
	}
	return &raw, nil
}

// otherKinds are the kinds of containerlab that need a container or a virtual machine of their own.
var otherKinds = strings.Fields(`
	6wind_vsr arista_ceos arista_veos arrcus_arcos aruba_aoscx border0 bridge checkpoint_cloudguard ciena_saos
	cisco_asav cisco_c8000 cisco_c8000v cisco_cat9kv cisco_csr1000v cisco_ftdv cisco_iol cisco_n9kv cisco_sdwan
	cisco_vios cisco_xrd cisco_xrd_vrouter cisco_xrv cisco_xrv9k cumulus_cvx dell_ftosv dell_sonic ext-container
	f5_bigip-ve fdio_vpp fortinet_fortigate freebsd generic_vm host huawei_vrp ipinfusion_ocnos juniper_cjunosevolved
	juniper_crpd juniper_csrx juniper_vjunosevolved juniper_vjunosrouter juniper_vjunosswitch juniper_vmx juniper_vqfx
	juniper_vsrx k8s-kind keysight_ixia-c-one mikrotik_ros nokia_sros nokia_srlinux nokia_srsim nvidia_cumulusvx openbsd
	openwrt ostinato ovs-bridge paloalto_panos plvision_sonic rare sonic-vm sonic-vs spirent_stc veesix_osvbng
	vyosnetworks_vyos`)
