// Package controlpb is what VEMs say to each other on the control channel, generated from
// control.proto by `make generate`. Package control checks what comes, and turns it into values
// of Go.
package controlpb
