// Package directory is what the hosts of one installation know in common: which host owns
// which endpoint, with which epoch; which hosts there are, and where they are; which networks
// there are, and which host may give out which of their addresses.
//
// It lies in a [Store], which is etcd (package etcd below this one), or a fake in memory for
// tests. One host alone needs none of it.
package directory
