package evpn

// For the tests that need package wire, which imports this one.
var (
	NewMapKernel = newMapKernel
	Apply        = (*mapKernel).apply
	Ours         = (*mapKernel).ours
)

// Describe prints what an entry says beside its key.
func (e Entry) Describe() string { return e.describe() }
