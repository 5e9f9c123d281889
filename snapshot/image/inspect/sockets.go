package inspect

import (
	"context"
	"fmt"
	"os"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"

	"github.com/snapctl/snapctl/snapshot/image"
)

// Sockets lists the sockets of a dump as [Read] does, without their queues and
// where they are open. It reads files.img alone: some microseconds for each open
// file, however many processes there are.
//
// The error wraps [wire.ErrMalformed] or [fs.ErrNotExist] if that is bad or missing.
func Sockets(ctx context.Context, images string) ([]Socket, error) {
	d := &image.Dump{FS: os.DirFS(images)}
	files, err := image.ReadAll[fdinfo.FileEntry](d, "files.img", image.TypeFiles)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("list sockets of %s: %w", images, err)
	}
	sockets := make([]Socket, 0)
	for _, f := range files {
		var sk Socket
		switch {
		case f.GetIsk() != nil:
			sk = inetSocket(f.GetIsk())
		case f.GetUsk() != nil:
			sk = unixSocket(f.GetUsk())
		default:
			continue
		}
		sk.File = f.GetId()
		sockets = append(sockets, sk)
	}
	return sockets, nil
}
