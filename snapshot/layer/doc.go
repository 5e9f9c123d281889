// Package layer keeps layers: the files that an app wrote to its root, shared by all snapshots,
// restored apps and clones that have them.
//
// An app's root is an overlay. Its upper directory has what the app wrote. A snapshot makes a
// layer of that: an immutable directory in a [Store], named by the digest of the list of its
// files. Manifests and records name a layer by a [Ref]. An app that is restored or cloned has the
// layer below its own writes, and its own snapshots make one layer more:
//
//	upper directory     what this app has written
//	layer               what it had written when it was saved
//	layer               what the app had written that it was cloned from
//	lower root          the directory that all of them began with, "/" as a rule
//
// In which way layers come above the app's lower root is decided by runtime/sandbox.
//
// A layer is made in two steps, so that a crash between them can be undone: [Store.Describe] says
// what layer a directory would be, and [Draft.Place] renames the directory. [Store.Settle] tells
// whether that was done. What nobody names is swept: see package keep.
//
// With layers below, an app's own files may have marks, see [tree.Marks]. To change only mode,
// owner, times or name of a shared file leaves a file without data; to rename a directory leaves
// where it was. A layer keeps the marks as they are. They cost no bytes, are never read as data,
// and mean the same above the same layers, which a snapshot names. What flattens a stack, to make
// stubs or an app's own copy (--storage private, [Flatten]), follows the marks as the kernel does,
// and leaves none that leads to a layer.
//
// The kernel copies a shared file when it is first written to or opened for writing, all of it,
// by reflink where the file system can. So a program that keeps large files open for writing has
// them copied when it is restored. A file with several names would be several files from then
// on, so an app gets its copies of such files at the start, linked again: see package relink.
//
// # Stubs
//
// An overlay refuses a lower directory inside another one (ovl_check_layer). Where the layers
// are on the file system of the app's lower root, a tree of [Stubs] stands for them: directories,
// links, devices and whiteouts as they are, and files that the overlay takes for files of which
// only the metadata was copied up (metacopy=on, Linux 4.19). The kernel finds the stubs' data
// through the lower root, which is the next layer:
//
//	opt/x: size, mode, no data; redirect: /var/lib/snapctl/layers/SHA/tree/opt/x
//
// That path is one of directories of the file system, not of mounts. So what hides the state
// directory inside apps, which is done in the tree above the root, does not matter. The trees are
// on a tmpfs in the run directory, which is another file system, so nothing overlaps. A file that
// is mapped from one is known by its own name, so that CRIU can save it: an overlay on an overlay,
// the other way around the refusal, does not give that.
//
// A tree is made, aside, when an app with its stack of layers is first mounted. It is kept while
// an app that has not ended has the stack, then swept, and made anew after a reboot. It costs
// about a kilobyte of memory for each file, which is not swapped. Inode numbers of shared files
// are others afterwards, as they are in every clone: CRIU compares size, mode and build id, and
// the overlay does not follow an origin that it does not find. Extended attributes of users need
// Linux 6.6, for a tmpfs; before, a stack with such files is copied.
package layer
