package hold

// Verdicts that several look-outs come to: before the app is frozen, and when it is.

// UnreadInotify is the verdict on an inotify instance whose events nobody can keep.
func UnreadInotify() Verdict {
	return Refuse(Other, "inotify instance with events that wait to be read", "try again: the app has to read them first")
}

// UnreadFanotify is the verdict on a fanotify group whose events nobody can keep.
func UnreadFanotify() Verdict {
	return Refuse(Other, "fanotify group with events that wait to be read", "try again: the app has to read them first")
}

// OwnNamespace is the verdict on a process with a namespace, "net", that is not the app's.
func OwnNamespace(name string) Verdict {
	return Refuse(Other, name+" namespace of its own",
		"run containers and sandboxes beside the app and not inside: CRIU can't restore such a process")
}
