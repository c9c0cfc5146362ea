/* The system calls that are made for every message, without what Python's socket methods cost around them.

   transfer.py says what each function does, and does the same in Python where this file was not compiled; the tests put
   both through the same paces. What is saved here: parsing keyword arguments, slices and bound methods, exceptions for
   what is no exception ("nothing there yet"), and giving up the interpreter's lock for calls that never wait, since all
   of them are made with MSG_DONTWAIT. Nothing else belongs here: what to do about the bytes is decided in Python. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <limits.h>
#include <sys/socket.h>

/* One more with every change of what a function means: transfer.py leaves an older one aside. */
#define VERSION 2
/* Returned by forward() when less was sent than received; no errno is near it. */
#define SHORT (-100000)

typedef struct {
    PyObject_HEAD
    Py_buffer memory;
    PyObject *view;
    Py_ssize_t received;
    Py_ssize_t sent;
} Buffer;

static Py_ssize_t
receive(int fd, void *memory, Py_ssize_t size)
{
    ssize_t count;
    do {
        count = recv(fd, memory, (size_t)size, MSG_DONTWAIT);
    } while (count < 0 && errno == EINTR);
    return count < 0 ? -(Py_ssize_t)errno : count;
}

static Py_ssize_t
deliver(int fd, const void *memory, Py_ssize_t size, int flags)
{
    ssize_t count;
    do {
        count = send(fd, memory, (size_t)size, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (count < 0 && errno == EINTR);
    return count < 0 ? -(Py_ssize_t)errno : count;
}

static int
has_count(Py_ssize_t count, Py_ssize_t wanted)
{
    if (count == wanted) {
        return 1;
    }
    PyErr_Format(PyExc_TypeError, "%zd arguments instead of %zd", count, wanted);
    return 0;
}

/* A descriptor, or -1 with an exception set; one that is closed is -1 as well, and the system calls say EBADF. */
static int
descriptor(PyObject *handle)
{
    long fd = PyLong_AsLong(handle);
    if (fd > INT_MAX || fd < -1) {
        PyErr_SetString(PyExc_ValueError, "not a descriptor");
        return -1;
    }
    return (int)fd;
}

/* How much to read: 1 or more, or 0 with an exception set. */
static Py_ssize_t
room(Buffer *self, PyObject *limit)
{
    Py_ssize_t size = PyLong_AsSsize_t(limit);
    if (size > 0 && size <= self->memory.len) {
        return size;
    }
    if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "there is not so much in the buffer");
    }
    return 0;
}

static PyObject *
buffer_receive(Buffer *self, PyObject *const *args, Py_ssize_t count)
{
    if (!has_count(count, 2)) {
        return NULL;
    }
    int fd = descriptor(args[0]);
    Py_ssize_t limit = room(self, args[1]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    return PyLong_FromSsize_t(receive(fd, self->memory.buf, limit));
}

static PyObject *
buffer_forward(Buffer *self, PyObject *const *args, Py_ssize_t count)
{
    if (!has_count(count, 4)) {
        return NULL;
    }
    int source = descriptor(args[0]), sink = descriptor(args[1]);
    long flags = PyLong_AsLong(args[2]);
    Py_ssize_t limit = room(self, args[3]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_ssize_t size = receive(source, self->memory.buf, limit);
    if (size <= 0) {
        return PyLong_FromSsize_t(size);
    }
    if (size == limit) {
        flags &= ~MSG_MORE;
    }
    Py_ssize_t sent = deliver(sink, self->memory.buf, size, (int)flags);
    if (sent == size) {
        return PyLong_FromSsize_t(size);
    }
    self->received = size;
    self->sent = sent;
    return PyLong_FromLong(SHORT);
}

static PyObject *
buffer_take(Buffer *self, PyObject *count)
{
    Py_ssize_t size = PyLong_AsSsize_t(count);
    if (size == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (size < 0 || size > self->memory.len) {
        PyErr_SetString(PyExc_ValueError, "there is not so much in the buffer");
        return NULL;
    }
    return PyBytes_FromStringAndSize(self->memory.buf, size);
}

static PyObject *
send_to(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (!has_count(count, 3)) {
        return NULL;
    }
    int fd = descriptor(args[0]);
    long flags = PyLong_AsLong(args[2]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (PyBytes_CheckExact(args[1])) {
        return PyLong_FromSsize_t(deliver(fd, PyBytes_AS_STRING(args[1]), PyBytes_GET_SIZE(args[1]), (int)flags));
    }
    Py_buffer data;
    if (PyObject_GetBuffer(args[1], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    Py_ssize_t sent = deliver(fd, data.buf, data.len, (int)flags);
    PyBuffer_Release(&data);
    return PyLong_FromSsize_t(sent);
}

static PyObject *
handle_of(PyObject *module, PyObject *socket)
{
    int fd = PyObject_AsFileDescriptor(socket);
    return fd < 0 ? NULL : PyLong_FromLong(fd);
}

static int
buffer_init(Buffer *self, PyObject *args, PyObject *kwargs)
{
    Py_ssize_t size;
    if (self->view != NULL || (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0)) {
        PyErr_SetString(PyExc_TypeError, "Buffer(size), once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "n:Buffer", &size)) {
        return -1;
    }
    if (size <= 0) {
        PyErr_SetString(PyExc_ValueError, "a buffer needs room");
        return -1;
    }
    PyObject *memory = PyByteArray_FromStringAndSize(NULL, size);
    if (memory == NULL) {
        return -1;
    }
    memset(PyByteArray_AS_STRING(memory), 0, (size_t)size);
    /* Held until the end, so that nobody can resize the memory. */
    int failed = PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE);
    if (!failed) {
        self->view = PyMemoryView_FromObject(memory);
        failed = self->view == NULL;
    }
    Py_DECREF(memory);
    return failed ? -1 : 0;
}

static void
buffer_dealloc(Buffer *self)
{
    Py_CLEAR(self->view);
    if (self->memory.obj != NULL) {
        PyBuffer_Release(&self->memory);
    }
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef buffer_methods[] = {
    {"receive", (PyCFunction)(void (*)(void))buffer_receive, METH_FASTCALL, NULL},
    {"forward", (PyCFunction)(void (*)(void))buffer_forward, METH_FASTCALL, NULL},
    {"take", (PyCFunction)buffer_take, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef buffer_members[] = {
    {"view", T_OBJECT_EX, offsetof(Buffer, view), READONLY, NULL},
    {"received", T_PYSSIZET, offsetof(Buffer, received), READONLY, NULL},
    {"sent", T_PYSSIZET, offsetof(Buffer, sent), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot buffer_slots[] = {
    {Py_tp_init, buffer_init},
    {Py_tp_dealloc, buffer_dealloc},
    {Py_tp_methods, buffer_methods},
    {Py_tp_members, buffer_members},
    {0, NULL},
};

static PyType_Spec buffer_spec = {
    .name = "proxy.relay._transfer.Buffer",
    .basicsize = sizeof(Buffer),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = buffer_slots,
};

static PyMethodDef functions[] = {
    {"handle_of", handle_of, METH_O, NULL},
    {"send", (PyCFunction)(void (*)(void))send_to, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "proxy.relay._transfer", .m_size = -1, .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__transfer(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL) {
        return NULL;
    }
    PyObject *type = PyType_FromSpec(&buffer_spec);
    if (type == NULL || PyModule_AddObject(module, "Buffer", type) < 0) {
        Py_XDECREF(type);
        Py_DECREF(module);
        return NULL;
    }
    if (PyModule_AddIntConstant(module, "SHORT", SHORT) < 0 || PyModule_AddIntConstant(module, "VERSION", VERSION) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
