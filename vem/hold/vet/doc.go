// Package vet is the preflight of a hold: it looks at every open file and mapping of a
// running app, and tells what can be neither held nor saved, before the app is frozen.
//
// A [Finding] is one such thing. Those of severity [Error] would make hibernating fail:
// [Errors] joins them, each a *[hold.UnsupportedError] that names process, descriptor and
// remedy. The app may run on meanwhile and change; so package collect looks again at the frozen
// app, and closer.
//
// What CRIU saves and refuses was read in its source and tried; each check says where.
package vet
