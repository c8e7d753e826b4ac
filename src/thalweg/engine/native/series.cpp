// The kernels of a family one after the other, where barriers concern one tensor each: measured, answered and updated set
// by set, so that what was measured is in the cache still. Back in Python between them each kernel would wait for its
// threads to wake, and for Python.
#include <stdint.h>

struct Pass {
  void (*run)(int64_t, const int64_t*, const int64_t*, void* const*, const char*, const char* const*, double*);
  int64_t columns, numbers, bytes;  // pointers and numbers of a tensor, bytes of a number
  int64_t sums, answers;
  const char* const* answer;  // what earlier passes have told, an array over all tensors each
  double* found;  // what this one finds; none at the last
  char* told;
};

extern "C" void run(int64_t sets, const int64_t* begins, const Pass* passes, const int64_t* sizes, const int64_t* units,
                    void* const* pointers, const char* numbers) {
  for (int64_t set = 0; set < sets; ++set) {
    const int64_t from = begins[set], count = begins[set + 1] - from;
    for (const Pass* pass = passes;; ++pass) {
      const char** answers = new const char*[pass->answers + 1];
      for (int64_t a = 0; a < pass->answers; ++a) answers[a] = pass->answer[a] + from * pass->bytes;
      pass->run(count, sizes + from, units + from, pointers + from * pass->columns,
                numbers + from * pass->numbers * pass->bytes, answers, pass->found);
      delete[] answers;
      if (!pass->found) break;
      for (int64_t s = 0; s < pass->sums; ++s)
        for (int64_t t = 0; t < count; ++t) {
          const double found = pass->found[s * count + t];
          char* to = pass->told + (s * begins[sets] + from + t) * pass->bytes;
          if (pass->bytes == 4) *(float*)to = float(found);
          else *(double*)to = found;
        }
    }
  }
}
