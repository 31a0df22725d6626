package evpn

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// RTDialect names how the route targets of a VNI are derived from AS and VNI when the configuration does not list them
// . The zero value is RTAuto.
type RTDialect string

// Dialects. AS16 is the AS, or its low 16 bits when it is a 4-octet one, as FRR does.
const (
	RTAuto    RTDialect = "auto"    // export AS16:VNI; import *:VNI and *:0x10000000|VNI
	RTFRR     RTDialect = "frr"     // export AS16:VNI; import *:VNI
	RTRFC8365 RTDialect = "rfc8365" // export and import AS:0x10000000|VNI; 2-octet AS only (RT-03)
	RTAS4     RTDialect = "as4"     // export and import the 4-octet-AS form AS:VNI; VNIs up to 65535 only
)

// DeriveRTs returns what VNI vni of AS asn imports and exports in the given dialect. An error says that the dialect has
// no route target for this pair, so that they must be configured, or that there is no such dialect.
func DeriveRTs(dialect RTDialect, asn uint32, vni VNI) (imports []RTPattern, exports []RT, err error) {
	switch dialect {
	case RTAuto, "":
		// The wildcard compares only 16 bits of a 2-octet local administrator, so those forms match the first pattern
		// whenever they match the second: being meant twice is being meant.
		return []RTPattern{anyAdmin(uint32(vni)), anyAdmin(RFC8365Local(vni))}, []RT{NewRT(asn, uint32(vni))}, nil
	case RTFRR:
		return []RTPattern{anyAdmin(uint32(vni))}, []RT{NewRT(asn, uint32(vni))}, nil
	case RTRFC8365:
		if asn > math.MaxUint16 {
			return nil, nil, fmt.Errorf("derive route target of VNI %d: RFC 8365 has none for AS %d, which exceeds 65535", vni, asn)
		}
		rt := NewRT(asn, RFC8365Local(vni))
		return []RTPattern{{RT: rt}}, []RT{rt}, nil
	case RTAS4:
		if vni > math.MaxUint16 {
			return nil, nil, fmt.Errorf("derive route target of VNI %d: the 4-octet-AS form has room for VNIs up to 65535", vni)
		}
		rt := NewAS4RT(asn, uint16(vni))
		return []RTPattern{{RT: rt}}, []RT{rt}, nil
	default:
		return nil, nil, fmt.Errorf("derive route target of VNI %d: no dialect %q", vni, string(dialect))
	}
}

// ParseRTPattern reads a route target (see ParseRT), or "*:100" for any administrator with that local number, 0 to
// 4294967295; its error wraps ErrRT.
func ParseRTPattern(s string) (RTPattern, error) {
	number, wildcard := strings.CutPrefix(s, "*:")
	if !wildcard {
		rt, err := ParseRT(s)
		return RTPattern{RT: rt}, err
	}
	local, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return RTPattern{}, fmt.Errorf("%q: %w: number after *: must be 0 to 4294967295", s, ErrRT)
	}
	return anyAdmin(uint32(local)), nil
}

func anyAdmin(local uint32) RTPattern { return RTPattern{AnyAdmin: true, Local: local} }
