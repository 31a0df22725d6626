package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
)

// peerInfo is whom the kernel says to be at the other end of a UNIX socket, as of when it connected.
type peerInfo struct {
	credentials.CommonAuthInfo
	uid    uint32
	groups []uint32 // the effective one and the supplementary ones
}

// AuthType is described at credentials.AuthInfo.
func (peerInfo) AuthType() string { return "unix" }

func (p peerInfo) String() string { return fmt.Sprintf("user %d", p.uid) }

// peerCredentials have gRPC ask the kernel who connects to a UNIX socket, instead of a handshake.
type peerCredentials struct{}

// ClientHandshake is for clients, which have nothing to say.
func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("credentials of a server")
}

// ServerHandshake asks the kernel.
func (peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("%s is no UNIX socket", c.LocalAddr())
	}
	info, err := peerOf(u)
	if err != nil {
		return nil, nil, fmt.Errorf("ask who is at the other end of %s: %w", c.LocalAddr(), err)
	}
	return c, info, nil
}

// Info is described at credentials.TransportCredentials.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

// Clone is described at credentials.TransportCredentials.
func (c peerCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName is described at credentials.TransportCredentials.
func (peerCredentials) OverrideServerName(string) error { return nil }

// peerOf asks the kernel for the credentials of the other end.
func peerOf(c *net.UnixConn) (peerInfo, error) {
	info := peerInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	raw, err := c.SyscallConn()
	if err != nil {
		return info, err
	}
	var cerr error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); cerr != nil {
			return
		}
		info.uid = cred.Uid
		info.groups, cerr = peerGroups(fd)
		info.groups = append(info.groups, cred.Gid)
	})
	return info, errors.Join(err, cerr)
}

// peerGroups returns the supplementary groups of the other end; none on a kernel before 4.13, which does not tell.
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return groups[:size/4], nil
		case unix.ERANGE: // size is what it takes
			groups = make([]uint32, size/4)
		case unix.ENOPROTOOPT:
			return nil, nil
		default:
			return nil, errno
		}
	}
}
