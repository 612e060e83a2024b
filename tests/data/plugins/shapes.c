/* A plugin of any shape, for the tests of the loader: macros say what is wrong with it. It has one device, which runs
 * nothing. */
#include <anynpu.h>
#include <string.h>

#ifndef MAJOR
#define MAJOR 1
#endif
#ifndef MINOR
#define MINOR 1
#endif
#ifndef SIZE
#define SIZE sizeof(anynpu_backend)
#endif
#ifndef NAME
#define NAME "shapes"
#endif
#ifndef DEVICE
#define DEVICE "shapes"
#endif
#ifndef DEVICES
#define DEVICES 1
#endif
#ifndef INFO_SIZE
#define INFO_SIZE sizeof(anynpu_device_info)
#endif

static anynpu_text text(const char *words) {
  anynpu_text t = {words, strlen(words)};
  return t;
}

static anynpu_status enumerate(void *context, anynpu_tell_device tell, void *to, anynpu_message *message) {
  (void)context;
#ifdef UNAVAILABLE
  message->length = strlen(UNAVAILABLE);
  memcpy(message->text, UNAVAILABLE, message->length);
  return ANYNPU_UNAVAILABLE;
#endif
#ifdef LONG_MESSAGE
  /* more than there is room for */
  message->length = message->capacity * 1000;
  return ANYNPU_VENDOR;
#endif
  (void)message;
  anynpu_dtype types[] = {ANYNPU_DTYPE_F32, 9999};
  anynpu_device_info info;
  memset(&info, 0, sizeof info);
  info.struct_size = INFO_SIZE;
  info.kind = ANYNPU_KIND_OTHER;
  info.name = text(DEVICE);
  info.description = text("runs nothing");
  info.op_set = ANYNPU_OP_SET;
  info.features = ANYNPU_FEATURE_DYNAMIC_SHAPES;
  info.compute = types;
  info.compute_count = 2;
  for (int n = 0; n < DEVICES; n++) tell(to, &info);
  return ANYNPU_OK;
}

static anynpu_status open_device(void *context, const anynpu_open_request *request, anynpu_device **device,
                                 anynpu_message *message) {
  (void)context, (void)request, (void)message;
  static int one;
  *device = &one;
  return ANYNPU_OK;
}

static void close_device(anynpu_device *device) { (void)device; }

static anynpu_status support(anynpu_device *device, const anynpu_graph *graph, anynpu_tell_verdict tell, void *to,
                             anynpu_message *message) {
  (void)device, (void)message;
  /* a node that is not there, and a verdict and a reason that nobody knows */
  tell(to, graph->node_count + 7, ANYNPU_SUPPORT_YES, 0, text(""));
  tell(to, 0, 77, 88, text("a verdict of another version"));
  return ANYNPU_OK;
}

static anynpu_status compile(anynpu_device *device, const anynpu_compile_request *request, anynpu_module **module,
                             anynpu_message *message) {
  (void)device, (void)request, (void)module, (void)message;
  return ANYNPU_COMPILE_REJECTED;
}

static void destroy_module(anynpu_device *device, anynpu_module *module) { (void)device, (void)module; }

static anynpu_status submit(anynpu_device *device, const anynpu_submission *submission, anynpu_message *message) {
  (void)device, (void)submission, (void)message;
  return ANYNPU_INVALID_USE;
}

#if MINOR > 0
static void counters(anynpu_device *device, anynpu_counters *told) {
  (void)device;
  told->submissions = 41;
}
#endif

/* a table as a later version might have it */
static struct {
  anynpu_backend known;
  void *later[32];
} table;

ANYNPU_EXPORT const anynpu_backend *
#ifdef NO_SYMBOL
anynpu_backend_other
#else
anynpu_backend_query
#endif
(uint16_t max_major, uint16_t max_minor, const anynpu_host *host) {
  (void)max_major, (void)max_minor, (void)host;
#ifdef CRASH
  *(volatile int *)0 = 1;
#endif
#ifdef HANG
  for (volatile int forever = 1; forever;) {
  }
#endif
#ifdef REFUSE
  return 0;
#endif
  memset(&table, 0xff, sizeof table);
  memset(&table, 0, sizeof(anynpu_backend));
  anynpu_backend *own = &table.known;
  own->struct_size = SIZE;
  own->major = MAJOR;
  own->minor = MINOR;
  own->name = text(NAME);
  own->version = text("1");
  own->enumerate = enumerate;
  own->open = open_device;
  own->close = close_device;
  own->support = support;
  own->compile = compile;
#ifdef NO_COMPILE
  own->compile = 0;
#endif
  own->destroy_module = destroy_module;
  own->submit = submit;
#ifdef HALF_BLOBS
  own->save = (anynpu_status(*)(anynpu_device *, anynpu_module *, anynpu_tell_bytes, void *, anynpu_message *))1;
#endif
#if MINOR > 0
  own->counters = counters;
#else
  /* what a plugin of 1.0 has there is not of the interface */
  memset((char *)own + SIZE, 0xff, sizeof(anynpu_backend) - SIZE);
#endif
  return own;
}
