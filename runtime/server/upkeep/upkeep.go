// Package upkeep answers the API's requests about the directory of the installation.
package upkeep

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/vem/directory/member"
)

// Directory is that of the installation that this host is in, as package vem/upkeep has it.
type Directory interface {
	Status(ctx context.Context) (member.Overview, error)
	BackUp(ctx context.Context, path string) (member.Backup, error)
	Restore(ctx context.Context, path string, force bool) error
	Defragment(ctx context.Context, host string) error
}

// Installation is the one that this host is in.
type Installation interface {
	Leave(ctx context.Context, force bool) error
}

// Requests answers what is about the directory, and about leaving it.
type Requests struct {
	Directory    Directory
	Installation Installation
}

// LeaveHost implements the API.
func (r *Requests) LeaveHost(ctx context.Context, req *api.LeaveHostRequest) (*api.RemoveResponse, error) {
	return &api.RemoveResponse{}, r.Installation.Leave(ctx, req.GetForce())
}

// ShowDirectory implements the API.
func (r *Requests) ShowDirectory(ctx context.Context, _ *api.ShowDirectoryRequest) (*api.Directory, error) {
	o, err := r.Directory.Status(ctx)
	if err != nil {
		return nil, err
	}
	return message(o), nil
}

// BackUpDirectory implements the API.
func (r *Requests) BackUpDirectory(ctx context.Context, req *api.BackUpDirectoryRequest) (*api.DirectoryBackup, error) {
	if err := checkPath(req.GetPath()); err != nil {
		return nil, err
	}
	b, err := r.Directory.BackUp(ctx, req.GetPath())
	if err != nil {
		return nil, err
	}
	return &api.DirectoryBackup{Path: req.GetPath(), SizeBytes: b.Bytes, Sha256: b.SHA256}, nil
}

// RestoreDirectory implements the API.
func (r *Requests) RestoreDirectory(ctx context.Context, req *api.RestoreDirectoryRequest) (*api.Directory, error) {
	if err := checkPath(req.GetPath()); err != nil {
		return nil, err
	}
	if err := r.Directory.Restore(ctx, req.GetPath(), req.GetForce()); err != nil {
		return nil, err
	}
	return r.ShowDirectory(ctx, nil)
}

// DefragmentDirectory implements the API.
func (r *Requests) DefragmentDirectory(ctx context.Context, req *api.DefragmentDirectoryRequest) (*api.Directory, error) {
	if err := r.Directory.Defragment(ctx, req.GetHost()); err != nil {
		return nil, err
	}
	return r.ShowDirectory(ctx, nil)
}

func checkPath(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q is no absolute path: %w", path, errdefs.ErrInvalidArgument)
	}
	return nil
}

// message is the directory as the API has it.
func message(o member.Overview) *api.Directory {
	d := &api.Directory{Urls: o.URLs, Own: o.Own}
	if o.Leaderless != nil {
		d.Leaderless = o.Leaderless.Error()
	}
	for _, m := range o.Members {
		here := !o.Own && m.Name == o.Host
		a := &api.DirectoryMember{
			Host: m.Name, Id: strconv.FormatUint(m.ID, 16), Self: here, Answers: m.Answers, Leads: m.Leads, Behind: m.Lag, Version: m.Version,
			SizeBytes: m.Size, InUseBytes: m.InUse, QuotaBytes: m.Quota, Full: m.Full, Corrupt: m.Corrupt, Learner: m.Learner, Urls: m.ClientURLs,
		}
		if here {
			a.Pid = int32(o.Process)
			if o.Ended != nil {
				a.Error = o.Ended.Error()
			}
		}
		d.Members = append(d.Members, a)
	}
	return d
}
