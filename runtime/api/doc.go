// Package api is the gRPC API of snapctld, generated from snapctl.proto by
// `make generate`. Its users call package runtime/client, which is shaped for
// Go.
package api
