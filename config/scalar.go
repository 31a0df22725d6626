package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/evpnd/evpnd/evpn"
)

// The readers of single values. Each refuses what can never be right, whatever the other keys say.

const (
	minHoldTime        = 3 * time.Second // RFC 4271 §4.2
	maxHoldTime        = math.MaxUint16 * time.Second
	maxGracefulRestart = 4095 * time.Second // 12 bits: RFC 4724 §3
	minConnectRetry    = 100 * time.Millisecond
	maxConnectRetry    = time.Hour
	maxLongLived       = (1<<24 - 1) * time.Second // 24 bits: RFC 9494 §3.1
	maxStaleTime       = time.Hour
	maxKeepFor         = 7 * 24 * time.Hour
	maxIdleHold        = 24 * time.Hour
	maxMaxRoutes       = 100_000_000
	maxDynamicPeers    = 65535
	maxInterfaceName   = 15  // IFNAMSIZ without its terminating zero
	maxSocketPath      = 107 // sun_path of Linux without its terminating zero
	asTrans            = 23456
)

func readBool(text string) (bool, error) {
	switch text {
	case "true":
		return true, nil
	case "false":
		return false, nil
	default:
		return false, fmt.Errorf("want true or false, have %q", text)
	}
}

// number reads a decimal number. Leading zeros are refused: programs differ in whether they make it octal.
func number[T ~uint8 | ~uint16 | ~uint32 | ~int](lo, hi T) reader[T] {
	return func(text string) (T, error) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n < uint64(lo) || n > uint64(hi) || len(text) > 1 && text[0] == '0' {
			return 0, fmt.Errorf("want a number from %d to %d, have %q", lo, hi, text)
		}
		return T(n), nil
	}
}

func readPort(text string) (uint16, error) { return number[uint16](1, math.MaxUint16)(text) }

func readVNI(text string) (evpn.VNI, error) { return number[evpn.VNI](1, evpn.MaxVNI)(text) }

func readAS(text string) (uint32, error) {
	asn, err := number[uint32](1, math.MaxUint32)(text)
	if err != nil {
		return 0, fmt.Errorf("want an AS number from 1 to %d, have %q", uint32(math.MaxUint32), text)
	}
	if asn == asTrans {
		return 0, fmt.Errorf("AS %d stands for 4-octet AS numbers and is nobody's own (RFC 6793)", asTrans)
	}
	return asn, nil
}

// peerAS is the AS of a peer: a number, or a word in place of it.
type peerAS struct {
	number uint32
	word   string // "internal": ours; "external": learned from the OPEN, another than ours; "any": learned from the OPEN
}

func readPeerAS(words ...string) reader[peerAS] {
	return func(text string) (peerAS, error) {
		if slices.Contains(words, text) {
			return peerAS{word: text}, nil
		}
		asn, err := readAS(text)
		if err != nil {
			return peerAS{}, fmt.Errorf("%w; or one of these words: %s", err, strings.Join(words, ", "))
		}
		return peerAS{number: asn}, nil
	}
}

func readMultihop(text string) (uint8, error) {
	hops, err := number[uint8](0, math.MaxUint8)(text)
	if err != nil || hops == 1 {
		return 0, fmt.Errorf("want the TTL of our packets, 2 to 255, or 0 for a directly connected peer, have %q", text)
	}
	return hops, nil
}

func oneOf[T ~string](words ...T) reader[T] {
	return func(text string) (T, error) {
		if slices.Contains(words, T(text)) {
			return T(text), nil
		}
		var list []string
		for _, w := range words {
			list = append(list, string(w))
		}
		return "", fmt.Errorf("want one of %s, have %q", strings.Join(list, ", "), text)
	}
}

// duration reads "90s", "1m30s", or plain seconds.
func duration(text string) (time.Duration, error) {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("want a duration such as 90s, or seconds, have %q", text)
	}
	return d, nil
}

// seconds reads a duration that BGP carries as whole seconds.
func seconds(lo, hi time.Duration) reader[time.Duration] {
	return func(text string) (time.Duration, error) {
		d, err := duration(text)
		if err != nil {
			return 0, err
		}
		if d < lo || d > hi || d%time.Second != 0 {
			return 0, fmt.Errorf("want whole seconds from %ds to %ds, have %s", lo/time.Second, hi/time.Second, text)
		}
		return d, nil
	}
}

func readHoldTime(text string) (time.Duration, error) {
	d, err := seconds(0, maxHoldTime)(text)
	if err != nil {
		return 0, err
	}
	if d != 0 && d < minHoldTime {
		return 0, fmt.Errorf("want 3s to 65535s, or 0 for a session that never expires, have %s", text)
	}
	return d, nil
}

// readPeerLoss reads what becomes of the routes of a peer that is lost.
func readPeerLoss(text string) (PeerLoss, error) {
	switch words := strings.Fields(text); {
	case text == "graceful-restart":
		return PeerLoss{}, nil
	case text == "withdraw":
		return PeerLoss{Withdraw: true}, nil
	case len(words) == 2 && words[0] == "keep-for":
		d, err := seconds(time.Second, maxKeepFor)(words[1])
		if err != nil {
			return PeerLoss{}, fmt.Errorf("keep-for: %w", err)
		}
		return PeerLoss{Keep: d}, nil
	default:
		return PeerLoss{}, fmt.Errorf("want graceful-restart, withdraw, or keep-for with a time, such as keep-for 10m, have %q", text)
	}
}

func readConnectRetry(text string) (time.Duration, error) {
	d, err := duration(text)
	if err != nil {
		return 0, err
	}
	if d < minConnectRetry || d > maxConnectRetry {
		return 0, fmt.Errorf("want %s to %s, have %s", minConnectRetry, maxConnectRetry, text)
	}
	return d, nil
}

func readAddress(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("want an IP address, have %q", text)
	case a.Is4In6():
		return netip.Addr{}, fmt.Errorf("write %s as IPv4: %s", text, a.Unmap().WithZone(""))
	case a.Zone() != "" && !a.IsLinkLocalUnicast():
		return netip.Addr{}, fmt.Errorf("%s is not link-local: leave %%%s out", a.WithZone(""), a.Zone())
	case a.Zone() != "":
		if _, err := readInterface(a.Zone()); err != nil {
			return netip.Addr{}, fmt.Errorf("%s: %w", a, err)
		}
	}
	return a, nil
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// readUnicast reads the address of one end of a session. Loopback is allowed: the other end may be on this host.
func readUnicast(text string) (netip.Addr, error) {
	a, err := readAddress(text)
	switch {
	case err != nil:
		return netip.Addr{}, err
	case a.IsUnspecified():
		return netip.Addr{}, fmt.Errorf("%s is the unspecified address: want the address of one host", a)
	case a.IsMulticast() || a == broadcast:
		return netip.Addr{}, fmt.Errorf("%s is no unicast address: want the address of one host", a)
	}
	return a, nil
}

// readVTEP reads an address that other hosts can send to.
func readVTEP(text string) (netip.Addr, error) {
	a, err := readUnicast(text)
	if err != nil {
		return netip.Addr{}, err
	}
	return a, checkVTEP(a)
}

func checkVTEP(a netip.Addr) error {
	switch {
	case a.IsLoopback():
		return fmt.Errorf("%s is a loopback address, which other VTEPs cannot send to", a)
	case a.IsLinkLocalUnicast():
		return fmt.Errorf("%s is a link-local address, which VTEPs beyond the link cannot send to", a)
	}
	return nil
}

// readRouterID reads a BGP identifier. RFC 6286 allows every number but 0; the addresses refused here are one of those
// that two hosts have by mistake.
func readRouterID(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil || !a.Is4():
		return netip.Addr{}, fmt.Errorf("want a number in the form of an IPv4 address, have %q", text)
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == broadcast:
		return netip.Addr{}, fmt.Errorf("%s cannot identify this host: want a unicast address", a)
	}
	return a, nil
}

func readListenAddress(text string) (netip.Addr, error) {
	a, err := readAddress(text)
	switch {
	case err != nil:
		return netip.Addr{}, err
	case a.IsMulticast() || a == broadcast:
		return netip.Addr{}, fmt.Errorf("%s is no unicast address: want an address of this host", a)
	case a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "":
		return netip.Addr{}, fmt.Errorf("%s is link-local: name its interface, %s%%eth0", a, a)
	}
	return a, nil
}

func readPrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("want a prefix such as 10.0.0.0/24, have %q", text)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("write %s as an IPv4 prefix", text)
	case p.Masked() != p:
		return netip.Prefix{}, fmt.Errorf("%s has bits set beyond its length: want %s", p, p.Masked())
	case p.Addr().IsMulticast():
		return netip.Prefix{}, fmt.Errorf("%s holds no unicast address", p)
	}
	return p, nil
}

// readInterface reads a device name as the kernel would accept it.
func readInterface(text string) (string, error) {
	bad := func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) || !unicode.IsPrint(r) }
	if text == "" || len(text) > maxInterfaceName || text == "." || text == ".." || strings.ContainsFunc(text, bad) {
		return "", fmt.Errorf("want an interface name of 1 to %d octets, have %q", maxInterfaceName, text)
	}
	return text, nil
}

func readText(text string) (string, error) {
	if text == "" || strings.ContainsFunc(text, unicode.IsControl) {
		return "", fmt.Errorf("want a text of one line, have %q", text)
	}
	return text, nil
}

func readAbsolutePath(text string) (string, error) {
	if _, err := readText(text); err != nil || !filepath.IsAbs(text) {
		return "", fmt.Errorf("want an absolute path, have %q", text)
	}
	return filepath.Clean(text), nil
}

func readSocketPath(text string) (string, error) {
	path, err := readAbsolutePath(text)
	if err == nil && len(path) > maxSocketPath {
		return "", fmt.Errorf("want a path of at most %d octets for a UNIX socket, have %d", maxSocketPath, len(path))
	}
	return path, err
}

var errHostPort = errors.New("want host:port, for instance 127.0.0.1:9473 or [::1]:9473")

func readHostPort(text string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil || strings.ContainsFunc(host, unicode.IsSpace) {
		return "", fmt.Errorf("%w, have %q", errHostPort, text)
	}
	if _, err := readPort(port); err != nil {
		return "", fmt.Errorf("port: %w", err)
	}
	return text, nil
}

// readClientName reads a name as it stands in a certificate.
func readClientName(text string) (string, error) {
	if text == "" || len(text) > 255 || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		return "", fmt.Errorf("want a name as it stands in a client's certificate, have %q", text)
	}
	return text, nil
}

// readHostMAC reads the MAC of one host.
func readHostMAC(text string) (evpn.MAC, error) {
	mac, err := evpn.ParseMAC(text)
	if err == nil && (mac.IsGroup() || mac.IsZero()) {
		return evpn.MAC{}, fmt.Errorf("%s is no host's MAC: want one with an even first octet", mac)
	}
	return mac, err
}

// readGatewayIP reads an address that hosts of a subnet send to; a link-local one is every router's own.
func readGatewayIP(text string) (netip.Addr, error) {
	a, err := readUnicast(text)
	if err == nil && (a.IsLoopback() || a.IsLinkLocalUnicast() || a.Zone() != "") {
		return netip.Addr{}, fmt.Errorf("%s stays on its host or link: want an address of the subnet", a)
	}
	return a, err
}

// readRD reads a route distinguisher. 0:0 is refused because RD's zero value stands for the default.
func readRD(text string) (evpn.RD, error) {
	rd, err := evpn.ParseRD(text)
	if err == nil && rd == (evpn.RD{}) {
		return rd, errors.New("0:0 distinguishes nothing: leave the key out for the default, VTEP:n")
	}
	return rd, err
}
