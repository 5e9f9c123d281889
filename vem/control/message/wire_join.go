package message

import (
	"net/netip"

	pb "github.com/snapctl/snapctl/vem/control/controlpb"
)

// FromJoin returns the request of a host that wants to join.
func FromJoin(m *pb.JoinRequest) (JoinRequest, error) {
	var c Checks
	c.Count("addresses", len(m.GetAddresses()), 1, MaxAddresses)
	if c.Err != nil {
		return JoinRequest{}, c.Err
	}
	r := JoinRequest{
		ID: fromID(m.GetCall()), TokenID: m.GetTokenId(), Secret: m.GetSecret(), Host: m.GetHost(), CSR: m.GetCsr(),
		Version: m.GetVersion(), Protocols: fromRange(m.GetProtocols()),
	}
	for _, a := range m.GetAddresses() {
		at := HostAddress{Priority: a.GetPriority()}
		if a.GetPort() <= 65535 {
			at.AddrPort = netip.AddrPortFrom(fromAddr(a.GetAddress()), uint16(a.GetPort()))
		}
		r.Addresses = append(r.Addresses, at)
	}
	c.Join(r)
	return r, c.Err
}

// ToJoin makes a message of the request of a host that wants to join.
func ToJoin(r JoinRequest) *pb.JoinRequest {
	m := &pb.JoinRequest{
		Call: r.ID[:], TokenId: r.TokenID, Secret: r.Secret, Host: r.Host, Csr: r.CSR,
		Version: r.Version, Protocols: ToRange(r.Protocols),
	}
	for _, a := range r.Addresses {
		m.Addresses = append(m.Addresses, &pb.HostAddress{Address: ToAddr(a.Addr()), Port: uint32(a.Port()), Priority: a.Priority})
	}
	return m
}

// FromJoined returns what a host that has joined is told.
func FromJoined(m *pb.JoinAnswer) (Joined, error) {
	j := Joined{
		Credentials:  Credentials{Chain: m.GetChain(), Authorities: m.GetAuthorities()},
		Installation: m.GetInstallation(), Directory: m.GetDirectory(),
	}
	var c Checks
	c.joined(j)
	return j, c.Err
}

// ToJoined makes a message of what a host that has joined is told.
func ToJoined(j Joined) *pb.JoinAnswer {
	return &pb.JoinAnswer{Installation: j.Installation, Chain: j.Chain, Authorities: j.Authorities, Directory: j.Directory}
}

// FromRenew returns a request for a certificate, and the name of the call.
func FromRenew(m *pb.RenewRequest) (id ID, csr []byte, err error) {
	id, csr = fromID(m.GetCall()), m.GetCsr()
	var c Checks
	c.id(id)
	c.Bytes("csr", csr, 1, maxCSR)
	return id, csr, c.Err
}

// FromRenewed returns the certificate that a host answers with.
func FromRenewed(m *pb.RenewAnswer) (Credentials, error) {
	cr := Credentials{Chain: m.GetChain(), Authorities: m.GetAuthorities()}
	var c Checks
	c.credentials(cr)
	return cr, c.Err
}
