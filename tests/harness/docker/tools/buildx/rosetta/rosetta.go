// Package rosetta replaces the module of that name, which the Go module proxy does not serve. The docker CLI uses it on Macs
// only.
package rosetta

import "runtime"

// Enabled reports whether Rosetta translates this process.
func Enabled() bool { return false }

// NativeArch returns the processor's architecture.
func NativeArch() string { return runtime.GOARCH }
