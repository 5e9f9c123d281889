// Package engine has what can be done with the apps of one host: run, hibernate, wake, save, stop
// and remove them. It also finishes or undoes what a killed daemon left.
//
// Every change of an app is an operation that has the app's turn (package app) and a table of
// steps (package journal), which stands in the file of the operation: a daemon killed at any
// point leaves something that the next one finishes or undoes (recover.go). What lasts is
//
//	run, restore, clone
//	         |
//	         v      hibernate
//	      running ------------> held
//	       |   ^                 |  |
//	       |   +-----------------+  |
//	       |          wake          |
//	       +------> stopped <-------+
//
// and pooled, that of a clone which stands ready until it is handed out.
//
// What a room above needs to do operations of its own on apps is [Engine.Know], and to make apps,
// as package birth does it of snapshots, [Engine.BirthKind], [Engine.Enroll], [Engine.Enclose] or
// [Engine.Prepare], and [Engine.Adopt].
package engine
