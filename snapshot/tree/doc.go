// Package tree describes, checks and copies directories with everything in them: snapshots, and
// the layers of apps' files.
//
// [Describe] lists what is in a directory: for each [File] its type, mode, size, digest and
// stamp. Whoever keeps the list can prove later, by [Check], that nothing has changed. A file
// may have [Marks], by which an overlay knows what the file hides, and where its data is.
//
// [Copy] and [CopyExcept] copy directories. A [Maker] makes single files like others, for those
// who decide file by file what becomes of it. [Sync] brings a directory to the disk.
//
// Descriptions are stored as JSON, in manifests and in the lists of layers. Descriptions by older
// versions of snapctl must be read for ever.
package tree
