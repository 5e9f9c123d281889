package client

import (
	"context"

	"github.com/snapctl/snapctl/runtime/api"
)

// InitHost makes an installation, of which this host is the first one.
func (c *Client) InitHost(ctx context.Context, req *api.InitHostRequest) (*api.Host, error) {
	return c.api.InitHost(ctx, req)
}

// InviteHost makes a token with which one host may join, once.
func (c *Client) InviteHost(ctx context.Context, req *api.InviteHostRequest) (*api.Invitation, error) {
	return c.api.InviteHost(ctx, req)
}

// JoinHost makes this host one of an installation, or returns why it can't be one as it is.
func (c *Client) JoinHost(ctx context.Context, req *api.JoinHostRequest) (*api.JoinHostResponse, error) {
	return c.api.JoinHost(ctx, req)
}

// ListHosts returns the hosts of the installation, by name.
func (c *Client) ListHosts(ctx context.Context) ([]*api.Host, error) {
	r, err := c.ListHostsWithTrouble(ctx)
	return r.GetHosts(), err
}

// ListHostsWithTrouble returns the hosts of the installation, by name, and why they may be
// outdated.
func (c *Client) ListHostsWithTrouble(ctx context.Context) (*api.ListHostsResponse, error) {
	return c.api.ListHosts(ctx, &api.ListRequest{})
}

// ShowHost returns a host of the installation; this one if name is empty.
func (c *Client) ShowHost(ctx context.Context, name string) (*api.Host, error) {
	return c.api.ShowHost(ctx, &api.HostRequest{Name: name})
}

// SetHost changes this host.
func (c *Client) SetHost(ctx context.Context, req *api.SetHostRequest) (*api.Host, error) {
	return c.api.SetHost(ctx, req)
}

// CordonHost has a host take no apps of other hosts, or take them again, and returns it.
func (c *Client) CordonHost(ctx context.Context, req *api.CordonHostRequest) (*api.Host, error) {
	return c.api.CordonHost(ctx, req)
}

// Takeover makes the endpoint of an app this host's that belonged to a dead host.
func (c *Client) Takeover(ctx context.Context, req *api.TakeoverRequest) (*api.TakeoverResponse, error) {
	return c.api.Takeover(ctx, req)
}

// RemoveHost removes a host from the installation.
func (c *Client) RemoveHost(ctx context.Context, req *api.RemoveHostRequest) error {
	_, err := c.api.RemoveHost(ctx, req)
	return err
}

// SetGateway makes this host a gateway, or none, and returns what it is then.
func (c *Client) SetGateway(ctx context.Context, req *api.SetGatewayRequest) (*api.Gateway, error) {
	return c.api.SetGateway(ctx, req)
}

// ShowGateway returns what this host forwards.
func (c *Client) ShowGateway(ctx context.Context) (*api.Gateway, error) {
	return c.api.ShowGateway(ctx, &api.ShowGatewayRequest{})
}

// LeaveHost takes this host out of its installation.
func (c *Client) LeaveHost(ctx context.Context, force bool) error {
	_, err := c.api.LeaveHost(ctx, &api.LeaveHostRequest{Force: force})
	return err
}

// ShowDirectory returns how the directory of the installation is.
func (c *Client) ShowDirectory(ctx context.Context) (*api.Directory, error) {
	return c.api.ShowDirectory(ctx, &api.ShowDirectoryRequest{})
}

// BackUpDirectory writes the directory to a new file on this host.
func (c *Client) BackUpDirectory(ctx context.Context, path string) (*api.DirectoryBackup, error) {
	return c.api.BackUpDirectory(ctx, &api.BackUpDirectoryRequest{Path: path})
}

// RestoreDirectory puts a backup in the place of the directory.
func (c *Client) RestoreDirectory(ctx context.Context, req *api.RestoreDirectoryRequest) (*api.Directory, error) {
	return c.api.RestoreDirectory(ctx, req)
}

// DefragmentDirectory gives unused room of the member on a host back to the disk.
func (c *Client) DefragmentDirectory(ctx context.Context, host string) (*api.Directory, error) {
	return c.api.DefragmentDirectory(ctx, &api.DefragmentDirectoryRequest{Host: host})
}
