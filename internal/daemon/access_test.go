package daemon

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/internal/certtest"
)

// Groups of these tests: of the socket and of those who may change things. Their names are Debian's; see group.
const (
	socketGroup = "daemon"
	adminGroup  = "staff"
	stranger    = 4711 // a user who is in no group
)

func group(t testing.TB, name string) int {
	t.Helper()
	gid, err := groupID(name)
	if err != nil {
		t.Skip(err)
	}
	return int(gid)
}

// guarded is a daemon with both listeners, whose clients have different permissions.
type guarded struct {
	*client
	ca *certtest.Authority
	at string // of the TCP listener
}

func newGuarded(t testing.TB) *guarded {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("other users than root are needed, which only root can be")
	}
	group(t, socketGroup)
	group(t, adminGroup)
	g := &guarded{ca: certtest.New(t, "clients")}
	g.client = newClient(t, populatedConfig, func(opts *Options, w *world) {
		g.ca.Write(w.dir, "api", g.ca.Server())
		for dir := w.dir; dir != os.TempDir(); dir = filepath.Dir(dir) { // strangers must come as far as the socket
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		metrics := opts.Sockets.cfg.Metrics
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		g.at = l.Addr().String()
		w.api = fmt.Sprintf(", metrics: %q, group: %s, admin-group: %s, listen: %q, certificate: api.crt, key: api.key, client-ca: ca.crt, "+
			`readers: [reader.example, "spiffe://x/reader", old-reader], admins: [admin.example]`, metrics, socketGroup, adminGroup, g.at)
		w.writeConfig(basics + populatedConfig)
		cfg, err := config.Load(opts.ConfigPath)
		if err != nil {
			t.Fatal(err)
		}
		opts.Config = cfg
		if err := setSocketAccess(opts.Config.API.Socket, socketGroup); err != nil {
			t.Fatal(err)
		}
		opts.Sockets.tcp, opts.Sockets.cfg = l, opts.Config.API
	})
	g.populate()
	return g
}

// overTCP connects with a certificate, or without.
func (g *guarded) overTCP(cert ...tls.Certificate) *grpc.ClientConn {
	return dialled(g.t, "passthrough:///"+g.at, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: g.ca.Pool(), Certificates: cert})))
}

// as connects to the socket as a user with groups.
func (g *guarded) as(uid int, groups ...int) *grpc.ClientConn {
	return dialled(g.t, "passthrough:///socket", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			return connectAs(g.opts.Config.API.Socket, uid, groups)
		}))
}

func dialled(t testing.TB, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// connectAs connects with the credentials of another user: those of one thread, which ends with the goroutine.
func connectAs(path string, uid int, groups []int) (net.Conn, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = become(uid, groups)
		}
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}
		done <- result{fd, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, r.err
	}
	f := os.NewFile(uintptr(r.fd), path)
	defer f.Close()
	return net.FileConn(f)
}

// become changes the user of this thread alone.
func become(uid int, groups []int) error {
	ids := make([]uint32, len(groups)+1)
	for i, gid := range groups {
		ids[i] = uint32(gid)
	}
	for _, call := range [][4]uintptr{
		{unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&ids[0]))},
		{unix.SYS_SETRESGID, uintptr(uid), uintptr(uid), uintptr(uid)},
		{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
	} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return errno
		}
	}
	return nil
}

// methods asks the server what it has.
func methods(ctx context.Context, conn *grpc.ClientConn) ([]protoreflect.MethodDescriptor, error) {
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, err
	}
	ask := func(req *reflectionpb.ServerReflectionRequest) (*reflectionpb.ServerReflectionResponse, error) {
		if err := stream.Send(req); err != nil {
			return nil, err
		}
		return stream.Recv()
	}
	resp, err := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	if err != nil {
		return nil, err
	}
	var all []protoreflect.MethodDescriptor
	for _, s := range resp.GetListServicesResponse().GetService() {
		resp, err := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: s.Name}})
		if err != nil {
			return nil, err
		}
		for _, raw := range resp.GetFileDescriptorResponse().GetFileDescriptorProto() {
			var fd descriptorpb.FileDescriptorProto
			if err := proto.Unmarshal(raw, &fd); err != nil {
				return nil, err
			}
			file, err := protodesc.NewFile(&fd, protoregistry.GlobalFiles)
			if err != nil {
				return nil, err
			}
			for i := range file.Services().Len() {
				if service := file.Services().Get(i); string(service.FullName()) == s.Name {
					for j := range service.Methods().Len() {
						all = append(all, service.Methods().Get(j))
					}
				}
			}
		}
	}
	return all, stream.CloseSend()
}

// codeOf calls a method and returns the code of its first answer, or of its refusal.
func codeOf(ctx context.Context, conn *grpc.ClientConn, method protoreflect.MethodDescriptor, filled bool) (codes.Code, string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req := dynamicpb.NewMessage(method.Input())
	if filled {
		fill(req)
	}
	name := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, name)
	if err == nil {
		_ = stream.SendMsg(req) // the answer says why it could not
		_ = stream.CloseSend()
		err = stream.RecvMsg(dynamicpb.NewMessage(method.Output()))
	}
	return status.Code(err), status.Convert(err).Message()
}

// TestPermissions walks every method that the server has by its reflection, as every kind of client.
func TestPermissions(t *testing.T) {
	g := newGuarded(t)
	all, err := methods(g.ctx, g.conn)
	if err != nil {
		t.Fatal(err)
	}
	if names := fmt.Sprint(all); len(all) < 20 || !strings.Contains(names, "AdminService.Reload") || !strings.Contains(names, "ServerReflectionInfo") {
		t.Fatalf("the server has %v", names)
	}
	foreign := certtest.New(t, "somebody else")
	sockets, staff := group(t, socketGroup), group(t, adminGroup)
	before := g.inForce()
	for _, row := range []struct {
		client string
		conn   *grpc.ClientConn
		may    permission
		code   codes.Code // with mayNothing
		words  string     // of a refusal
	}{
		{"member of the socket's group", g.as(stranger, sockets), mayRead, 0, "user 4711 may only read"},
		{"a DNS name of readers", g.overTCP(g.ca.Client("x", "reader.example", "")), mayRead, 0, `client ["reader.example"] may only read`},
		{"a URI of readers", g.overTCP(g.ca.Client("", "", "spiffe://x/reader")), mayRead, 0, "may only read"},
		{"a common name of readers", g.overTCP(g.ca.Client("old-reader", "", "")), mayRead, 0, "may only read"},
		{"a stranger", g.as(stranger), mayNothing, codes.Unavailable, "permission denied"},
		{"only member of the admin group", g.as(stranger, staff), mayNothing, codes.Unavailable, "permission denied"},
		{"a name nobody listed", g.overTCP(g.ca.Client("", "other.example", "")), mayNothing, codes.PermissionDenied, `client ["other.example"] may not use this evpnd`},
		{"a common name beside another name", g.overTCP(g.ca.Client("admin.example", "other.example", "")), mayNothing, codes.PermissionDenied, ""},
		{"no name at all", g.overTCP(g.ca.Client("", "", "")), mayNothing, codes.PermissionDenied, ""},
		{"no certificate", g.overTCP(), mayNothing, codes.Unavailable, ""},
		{"a certificate of another CA", g.overTCP(foreign.Client("", "admin.example", "")), mayNothing, codes.Unavailable, ""},
		{"no TLS", dialled(t, "passthrough:///"+g.at, grpc.WithTransportCredentials(insecure.NewCredentials())), mayNothing, codes.Unavailable, ""},
	} {
		for _, method := range all {
			for _, filled := range []bool{false, true} {
				code, message := codeOf(g.ctx, row.conn, method, filled)
				want, refused := code, row.may == mayNothing || string(method.Parent().Name()) == "AdminService"
				if row.may == mayNothing {
					want = row.code
				} else if refused {
					want = codes.PermissionDenied
				}
				if code != want || refused != (code == codes.PermissionDenied || code == codes.Unavailable) || refused && !strings.Contains(message, row.words) {
					t.Errorf("%s, %s: %s, %q", row.client, method.FullName(), code, message)
				}
			}
		}
		if d := cmp.Diff(before, g.inForce()); d != "" {
			t.Errorf("%s changed something (-before +after):\n%s", row.client, d)
		}
	}
	for _, admin := range []*grpc.ClientConn{g.conn, g.as(stranger, sockets, staff), g.overTCP(g.ca.Client("", "admin.example", ""))} {
		for _, method := range all {
			if code, message := codeOf(g.ctx, admin, method, false); code == codes.PermissionDenied || code == codes.Unavailable {
				t.Errorf("an admin, %s: %s, %s", method.FullName(), code, message)
			}
		}
	}
}

// TestOldTLS: nothing before TLS 1.3 is spoken.
func TestOldTLS(t *testing.T) {
	g := newGuarded(t)
	cert := g.ca.Client("", "admin.example", "")
	c, err := tls.Dial("tcp", g.at, &tls.Config{RootCAs: g.ca.Pool(), Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12})
	if err == nil {
		c.Close()
		t.Fatal("TLS 1.2 is spoken")
	}
	if !strings.Contains(err.Error(), "protocol version") {
		t.Error(err)
	}
}

// TestNewServiceNeedsAdmin: a service that nobody thought of is not for readers.
func TestNewServiceNeedsAdmin(t *testing.T) {
	for method, want := range map[string]permission{
		"/evpn.v1.InspectService/ListMACs": mayRead, "/evpn.v1.AdminService/Reload": mayAdmin, "/evpn.v1.SomethingNew/Look": mayAdmin,
		"/grpc.health.v1.Health/Check": mayRead, "": mayAdmin, "/evpn.v1.InspectService": mayRead,
	} {
		if got := wanted(method); got != want {
			t.Errorf("%q wants %d, want %d", method, got, want)
		}
	}
}

// TestManyGroups: the groups of a client are known, however many they are.
func TestManyGroups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("other users than root are needed, which only root can be")
	}
	groups := []int{group(t, socketGroup)}
	for gid := 20_000; len(groups) < 300; gid++ {
		groups = append(groups, gid)
	}
	may := func(groups []int) permission {
		info, err := peerOf(accepted(t, groups))
		if err != nil {
			t.Fatal(err)
		}
		gid := uint32(group(t, adminGroup))
		p, _ := socketAccess{&gid}.of(info)
		return p
	}
	if p := may(groups); p != mayRead {
		t.Errorf("permission %d", p)
	}
	if p := may(append(slices.Clone(groups), group(t, adminGroup))); p != mayAdmin {
		t.Errorf("as admin: permission %d", p)
	}
}

// accepted is a server's end of a connection that a stranger with groups made.
func accepted(t testing.TB, groups []int) *net.UnixConn {
	t.Helper()
	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "s"), 0o666); err != nil {
		t.Fatal(err)
	}
	c, err := connectAs(filepath.Join(dir, "s"), stranger, groups)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
