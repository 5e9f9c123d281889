package openfile

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/mm"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
)

// Mapped says how processes map a saved file.
type Mapped struct {
	Code   bool // as a program or a library
	Shared bool
}

// ReadMapped says which of the files that a dump names are mapped, by their ids.
func ReadMapped(ctx context.Context, images string) (map[uint32]Mapped, error) {
	names, err := filepath.Glob(filepath.Join(images, "mm-*.img"))
	if err != nil {
		return nil, fmt.Errorf("list mapped files: %w", err)
	}
	mapped := make(map[uint32]Mapped)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("list mapped files: %w", err)
		}
		records, err := image.ReadRecords(name, image.TypeMM)
		if err != nil {
			return nil, fmt.Errorf("list mapped files: %w", err)
		}
		for _, rec := range records {
			var m mm.MmEntry
			if err := image.UnmarshalInto(rec.Message, &m); err != nil {
				return nil, fmt.Errorf("list mapped files: %w", err)
			}
			mapped[m.GetExeFileId()] = Mapped{Code: true}
			for _, v := range m.GetVmas() {
				if v.GetStatus()&(image.VMAFilePrivate|image.VMAFileShared) == 0 {
					continue
				}
				id := uint32(v.GetShmid())
				at := mapped[id]
				at.Code = at.Code || v.GetProt()&unix.PROT_EXEC != 0
				at.Shared = at.Shared || v.GetStatus()&image.VMAFileShared != 0
				mapped[id] = at
			}
		}
	}
	return mapped, nil
}
