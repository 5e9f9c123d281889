// Package trust says who belongs to an installation: the hosts that trust one CA.
//
// An [Authority] is that CA. It signs certificates for hosts, and can be copied to further hosts,
// so that any of them can invite and renew when the first one is gone. An [Identity] is the
// certificate and key of this host. It gives the TLS configurations with which hosts speak to
// each other: TLS 1.3 only, both sides verified by the CA and by the host's name in a URI,
//
//	snapctl://INSTALLATION/host/NAME
//
// never by an address or a DNS name, since a host has several addresses, and they change. The
// members of etcd verify a DNS name, which is the same for all hosts: [Identity.Files].
//
// A host joins by a [Token], which works once:
//
//	a member of the installation                  the host that joins
//	NewToken -> Token, and Record -> directory
//	         Token .... by hand ................> ParseToken
//	                                              Request: key on the disk, then a CSR
//	                                              JoinClient: trusts only the token's CA
//	Admission.Admit <--- id, secret, name, CSR ---
//	  limits, CSR, record, secret, expiry,
//	  sign, Tokens.Take: used up
//	         ------ chain ----------------------> Accept: key and chain in one file
//
// If the answer is lost the host asks again, with the same token and key, and gets another
// certificate. A certificate lasts 30 days, and [Identity.Renew] replaces it, with a new key, on
// open connections and without a restart.
//
// Each file is written aside and renamed, and a key is in the same file as its certificate:
// a crash leaves the old pair or the new one.
//
// This package opens no connection and knows no directory. What is stored for all hosts, and
// which hosts were removed, is the caller's.
package trust
