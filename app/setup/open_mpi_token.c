/* Make Open MPI's processes talk only to the processes of their own job. The launcher loads this library into them by LD_PRELOAD.

   Open MPI 4 listens on all interfaces and asks for no secret. With this library, each connection of Open MPI and of its PMIx begins
   with the token of the job, which is in the environment variable OPEN_MPI_TOKEN. A connection without it is closed before Open MPI
   sees it. The processes listen on the interface OPEN_MPI_INTERFACE only.

   A rank has sockets of other libraries too, such as gloo and NCCL. They are left alone: the functions below look which library has
   called them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SIZE = 64, WAIT_MS = 10000, WAIT_S = 10 };

/* Returns the token if Open MPI is the caller and the socket is one of TCP. */
static const char *token_for(int fd, void *caller)
{
    Dl_info library;
    int domain = 0, type = 0;
    socklen_t size = sizeof(int);
    const char *token = getenv("OPEN_MPI_TOKEN"), *name;
    if (token == NULL || strlen(token) != SIZE || !dladdr(caller, &library) || library.dli_fname == NULL)
        return NULL;
    name = strrchr(library.dli_fname, '/');
    name = name ? name + 1 : library.dli_fname;
    if (strncmp(name, "mca_", 4) && strncmp(name, "pmix_mca_", 9) && strncmp(name, "libpmix", 7) && strncmp(name, "libopen-", 8))
        return NULL;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size))
        return NULL;
    return (domain == AF_INET || domain == AF_INET6) && type == SOCK_STREAM ? token : NULL;
}

/* Listens on one interface where Open MPI would listen on all. For IPv6, which the launchers do not use, this is loopback. If IPv6 is
   off, ::1 does not exist, and a failure would make Open MPI use no TCP at all. Then this is 127.0.0.1, written as an IPv6 address. */
int bind(int fd, __CONST_SOCKADDR_ARG address, socklen_t size)
{
    int (*real)(int, const void *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    const struct sockaddr *any = address.__sockaddr__;
    const char *interface = getenv("OPEN_MPI_INTERFACE");
    static const struct in6_addr mapped = {{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1}}};
    struct sockaddr_in6 six;
    struct ifreq query = {0};
    int failed, off = 0;
    if (token_for(fd, __builtin_return_address(0)) && interface && *interface) {
        if (any->sa_family == AF_INET6 && size >= sizeof six) {
            memcpy(&six, any, sizeof six);
            if (memcmp(&six.sin6_addr, &in6addr_any, sizeof in6addr_any))
                return real(fd, any, size);
            six.sin6_addr = in6addr_loopback;
            failed = real(fd, &six, sizeof six);
            if (failed && errno == EADDRNOTAVAIL && !setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off)) {
                six.sin6_addr = mapped;
                failed = real(fd, &six, sizeof six);
            }
            return failed;
        }
        strncpy(query.ifr_name, interface, IFNAMSIZ - 1);
        if (any->sa_family == AF_INET && ((const struct sockaddr_in *)any)->sin_addr.s_addr == INADDR_ANY &&
            !ioctl(fd, SIOCGIFADDR, &query)) {
            ((struct sockaddr_in *)&query.ifr_addr)->sin_port = ((const struct sockaddr_in *)any)->sin_port;
            return real(fd, &query.ifr_addr, sizeof(struct sockaddr_in));
        }
    }
    return real(fd, any, size);
}

/* The kernel hands over a connection only when its first bytes are there, so that accept() never waits for a stranger. */
int listen(int fd, int backlog)
{
    int (*real)(int, int) = dlsym(RTLD_NEXT, "listen"), seconds = WAIT_S;
    if (token_for(fd, __builtin_return_address(0)) &&
        setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof seconds))
        return -1;
    return real(fd, backlog);
}

int accept(int fd, __SOCKADDR_ARG address, socklen_t *size)
{
    int (*real)(int, void *, socklen_t *) = dlsym(RTLD_NEXT, "accept");
    const char *token = token_for(fd, __builtin_return_address(0));
    socklen_t room = size ? *size : 0;
    for (;;) {
        char sent[SIZE];
        int connection, wrong = 0;
        if (size)
            *size = room;
        connection = real(fd, address.__sockaddr__, size);
        if (token == NULL || connection < 0)
            return connection;
        wrong = recv(connection, sent, SIZE, MSG_DONTWAIT) != SIZE;
        for (int i = 0; !wrong && i < SIZE; i++)
            wrong |= sent[i] ^ token[i];
        if (!wrong)
            return connection;
        close(connection);
    }
}

int connect(int fd, __CONST_SOCKADDR_ARG address, socklen_t size)
{
    int (*real)(int, const void *, socklen_t) = dlsym(RTLD_NEXT, "connect"), failed;
    const char *token = token_for(fd, __builtin_return_address(0));
    socklen_t length = sizeof failed;
    struct pollfd writable = {fd, POLLOUT, 0};
    failed = real(fd, address.__sockaddr__, size);
    if (token == NULL || (failed && errno != EINPROGRESS))
        return failed;
    if (failed) {
        while ((failed = poll(&writable, 1, WAIT_MS)) < 0 && errno == EINTR)
            ;
        if (failed != 1)
            failed = ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &length))
            failed = errno;
    }
    if (!failed && send(fd, token, SIZE, MSG_NOSIGNAL) != SIZE)
        failed = ECONNRESET;
    errno = failed;
    return failed ? -1 : 0;
}
