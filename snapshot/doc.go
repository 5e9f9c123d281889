// Package snapshot saves a running app as an immutable snapshot.
//
// A snapshot is a directory with CRIU's images of the processes, and a manifest with the
// digest of each file. The manifest also names what the snapshot shares with others: memory
// files, layers of the app's files, and kept files of the host.
//
//	STATE/snapshots/NAME/
//	  manifest.json  manifest.sha256
//	  images/                               CRIU's
//	  connections.bin                       connections inside the app (vem/tcprepair)
//	  sockets.json  network.json            options of sockets, network settings
//	  shm/  dev/                            the app's /dev/shm, and what else it made in /dev
//	STATE/apps/NAME/hibernation/            the same for a held app, without files
//	STATE/memory/SHA256                     memory files, see package memory
//	STATE/layers/SHA256/{tree,files.json}   layers, see [Layers]
//	STATE/files/ID/usr/lib/...              kept files of the host, see package hostfile
//	RUN/stubs/trees/SHA256                  trees of stubs, see [Stubs]
//
// A snapshot is written aside, brought to the disk, and committed by rename. After that it
// never changes, and [Dir.Open] proves that it did not: it reads every byte of small files,
// and compares size, inode and change time of large ones. A template is made only of a
// snapshot of which every byte was read.
//
// This package knows nothing of networks. What becomes of the sockets of a frozen app is the
// business of the [Sockets] that [Take] is given.
//
// # How an app is saved
//
//	running --freeze--> frozen --hold, dump--> saved --commit--> gone on, or ended
//	   ^                   |                     |
//	   +----- thaw <-------+--------- error -----+
//
// CRIU is started first, and the app is frozen in CRIU's pre-dump notification: CRIU's start
// and its kernel probes take longer than a small dump, and the app runs meanwhile.
//
// The commit is in CRIU's post-dump notification. An error there, a full disk, or the death of
// this process has CRIU let the processes go on. So there is no moment at which the processes
// are gone and the images are not on the disk. To let CRIU "leave running" and to kill the
// processes afterwards would not do: CRIU then removes link remaps that the images need.
//
// A snapshot that lets the app go on copies the app's files while the app is frozen.
//
// # Snapshots of an app that has ended
//
// Such a snapshot has no images: [Manifest].Processes is 0, see [TakeFiles]. What is made of it
// runs the program anew, on the files that were left. It has no pool, since there is nothing to
// hold ready.
//
// # Layers
//
// The app's files are a layer: what it wrote, which was the upper directory of an overlay. An
// app that is restored or cloned has the layer below its own writes, and shares it. In which way
// layers come above the app's lower root is decided by sandbox.Stack.
//
// With layers below, an app's own files may have [Marks]. To change only mode, owner, times or
// name of a shared file leaves a file without data; to rename a directory leaves where it was. A
// layer keeps the marks as they are. They cost no bytes, are never read as data, and mean the
// same above the same layers, which a snapshot names. What flattens a stack, to make stubs or an
// app's own copy (--storage private), follows the marks as the kernel does, and leaves none that
// leads to a layer.
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
package snapshot
