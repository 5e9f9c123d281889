package policy

import "github.com/spf13/cobra"

// Files has an app come back without files that it had.
type Files struct {
	Accept bool
	given  func() bool
}

// FilesText is the part about this flag of the help of wake and restore.
const FilesText = `Files below binds are taken as they are now. One that is gone is made anew, empty, if
the app could write to it; else nothing is done and the file is named: put it back, or
have it made too, with --accept-changed-files.`

// Add adds the flag; when says when it applies, and def what does without it.
func (f *Files) Add(cmd *cobra.Command, when, def string) {
	if def != "" {
		def = " (default " + def + ")"
	}
	cmd.Flags().BoolVar(&f.Accept, "accept-changed-files", false, when+"make empty files of those below binds that are gone and that the app only read"+def)
	f.given = func() bool { return cmd.Flags().Changed("accept-changed-files") }
}

// Message is what the flag says; nil if it is not there.
func (f *Files) Message() *bool {
	if !f.given() {
		return nil
	}
	return &f.Accept
}
