// Package rosetta stands in for the module of that name, which the proxy doesn't have: what the docker CLI asks of it
// has a meaning on a Mac only.
package rosetta

import "runtime"

// Enabled says whether Rosetta translates this process.
func Enabled() bool { return false }

// NativeArch is the processor's architecture.
func NativeArch() string { return runtime.GOARCH }
