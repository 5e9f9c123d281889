// Package template says what makes a clone of a template different from the
// others, and from the app that the template was made of.
//
// A template is a snapshot with [Rules], which are read from YAML by [Parse] and
// say what has to differ inside: the host name, files, links, variables, what to
// run, what becomes of frozen connections, what is published. An [Instance] is
// what is known of one clone, and [Rules.Plan] makes a [Plan] of both: rendered,
// checked, and independent of any system.
//
//	rules.yaml ─Parse─▶ Rules ─┐
//	                           ├─Plan─▶ Plan ─Apply─▶ the clone's root directory
//	name, number, address ─▶ Instance        │
//	                                         └─▶ host name, variables, commands,
//	                                             signal, publications: the caller's
//
// Inside a clone, [InstanceFile] tells programs which clone they are, and its
// generation that they have been copied. A [NamePattern] names many clones.
//
// All types are pure values. Only [Plan.Apply] and [InstanceFile.Write] write files: below
// a directory that they are given, and no link can lead them out of it.
package template
