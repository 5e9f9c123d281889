// Package drain has a host give all its apps to other hosts of the installation.
//
//	cordon this host ──▶ list its apps ──▶ of each, several at once:
//	                          ▲              wait until no operation goes on
//	                          │              ask the hosts how much room they have
//	                          │              move it to the one with the most, or, if that refuses, to the next
//	                          └──────────  until there is none that was not looked at
//
// A drain keeps nothing on the disk. One that was ended, or whose daemon was killed, leaves each app on one host, as
// package move has it, and the host cordoned; the next one goes on with the apps that are still there.
package drain
