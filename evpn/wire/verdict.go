package wire

import "fmt"

// Class is a reaction to an UPDATE in the order of RFC 7606 §2, weakest first. With several faults in one UPDATE the
// strongest reaction counts (RFC 7606 §3(h), ER-18).
type Class uint8

// The reactions. RFC 7606 also knows "AFI/SAFI disable"; this speaker resets the session instead (ER-04).
const (
	Accept           Class = iota
	AttributeDiscard       // an attribute was dropped, the routes stand
	TreatAsWithdraw        // every route of the UPDATE counts as withdrawn, the session stays
	SessionReset           // nothing of the UPDATE counts; a *ResetError says what to tell the peer
)

func (c Class) String() string {
	switch c {
	case Accept:
		return "accept"
	case AttributeDiscard:
		return "attribute-discard"
	case TreatAsWithdraw:
		return "treat-as-withdraw"
	case SessionReset:
		return "session-reset"
	default:
		return fmt.Sprintf("class %d", uint8(c))
	}
}

// Verdict is the reaction to an UPDATE and why, in words for the log. Reason is empty for Accept.
type Verdict struct {
	Class  Class
	Reason string
}

// strongest keeps the stronger of two verdicts, and of equals the first.
func (v *Verdict) strongest(o Verdict) {
	if o.Class > v.Class {
		*v = o
	}
}

// Error codes and subcodes of a NOTIFICATION (RFC 4271 §4.5) that this package asks for.
const (
	CodeHeader uint8 = 1
	CodeUpdate uint8 = 3

	SubcodeNotSynchronized uint8 = 1 // of CodeHeader: marker
	SubcodeBadLength       uint8 = 2
	SubcodeBadType         uint8 = 3

	SubcodeAttributeList     uint8 = 1 // of CodeUpdate
	SubcodeUnknownWellKnown  uint8 = 2
	SubcodeOptionalAttribute uint8 = 9
)

// maxResetData keeps a NOTIFICATION within 4096 octets, whatever the peer sent.
const maxResetData = 4096 - HeaderLen - 2

// ResetError asks to close the session with a NOTIFICATION of Code, Subcode and Data. Data is a copy, at most 4075
// octets; often the offending attribute, cut if need be.
type ResetError struct {
	Code    uint8
	Subcode uint8
	Data    []byte
	Reason  string
}

func (e *ResetError) Error() string {
	return fmt.Sprintf("bgp error %d/%d: %s", e.Code, e.Subcode, e.Reason)
}

// reset makes the error of a malformed UPDATE.
func reset(subcode uint8, data []byte, reason string) *ResetError {
	data = data[:min(len(data), maxResetData)]
	return &ResetError{Code: CodeUpdate, Subcode: subcode, Data: append([]byte(nil), data...), Reason: reason}
}
