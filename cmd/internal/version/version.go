// Package version holds the version of this build of snapctl.
package version

// Version is set by the linker: -X .../version.Version=v0.1.0.
var Version = "dev" //nolint:gochecknoglobals // the linker sets it
