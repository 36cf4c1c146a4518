// One model's training on a CPU, an epoch a call: gathers, network, losses, gradients and AdamW, in float32.
//
// The windows of a batch are the innermost axis, so that every loop over a small student is a loop over vectors:
// a map is [tile][channel][position][LT], LT windows a tile; lanes beyond the batch hold zeros. Maps that a
// convolution reads have HALO zero positions on both sides of each channel. All sums have a fixed order: the bits
// depend neither on the number of threads nor on what else runs.
//
// kd/training/fused.py compiles and calls it; kd/training/stack.py is the same in torch, the reference.
#include <algorithm>
#include <cstddef>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#if defined(__AVX512F__)
constexpr int V = 16, WIDE = 8, MID = 6;  // floats a register; output channels a block of a convolution computes
#elif defined(__AVX__)
constexpr int V = 8, WIDE = 6, MID = 4;
#else
constexpr int V = 4, WIDE = 8, MID = 4;  // NEON has 32 registers
#endif
using std::ptrdiff_t;
using std::size_t;
typedef float vec __attribute__((vector_size(4 * V), aligned(4 * V)));
typedef int32_t ivec __attribute__((vector_size(4 * V), aligned(4 * V)));
constexpr int LT = 2 * V, HALO = 2, KERNEL = 5;
constexpr float EPS = 1e-5f, MOMENTUM = 0.1f;                         // torch's BatchNorm
// architectures, as fused.py numbers them; POST: a ResNet of post-activation blocks, CHAIN: of kd.models.chain
enum { RESNET, MLP, POST, CHAIN };
constexpr double BETA1 = 0.9, BETA2 = 0.999;  // kd.training.adamw
constexpr float ADAM_EPS = 1e-8f;

static inline vec load(const float* p) { return *(const vec*)p; }
static inline void store(float* p, vec v) { *(vec*)p = v; }
static inline vec all(float x) { return x - vec{}; }
static inline vec pick(ivec mask, vec yes, vec no) { return mask ? yes : no; }
static inline double sum(vec v) {
  double s = 0;
  for (int i = 0; i < V; i++) s += v[i];
  return s;
}

// exp to about an ulp; 0 below the smallest normal number, NaN for NaN.
static inline vec exp(vec x) {
  ivec tiny = x < -87.33654f;
  x = pick(tiny, all(-87.33654f), x);
  x = pick(x > 88.72283f, all(88.72283f), x);
  vec n = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number
  ivec whole = (ivec)n - 0x4B400000;
  n -= 12582912.0f;
  vec r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  vec p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  ivec half = whole >> 1;  // two factors: 2^128 is no float
  vec scaled = p * (vec)((half + 127) << 23) * (vec)((whole - half + 127) << 23);
  return pick(tiny, vec{}, scaled);
}
static inline vec log(vec x) {
  for (int i = 0; i < V; i++) x[i] = std::log(x[i]);
  return x;
}

struct Map {
  int tiles = 0, channels = 0, length = 0, halo = 0;
  float* data = nullptr;
  ptrdiff_t channel() const { return (ptrdiff_t)(length + 2 * halo) * LT; }
  float* at(int tile, int c) const { return data + ((ptrdiff_t)tile * channels + c) * channel() + halo * LT; }
};

// A weight as it lies in the flat vector of parameters: (out, in, tap) by strides.
struct Weight {
  int64_t start, out, in, tap;
  float* at(float* flat, int o, int i, int k) const { return flat + start + o * out + i * in + k * tap; }
  const float* at(const float* flat, int o, int i, int k) const { return flat + start + o * out + i * in + k * tap; }
};
struct Norm { int64_t weight, bias, mean, var; };
struct Block {  // norm3: of POST's shortcut
  int64_t in, out, stride;
  Norm norm1, norm2, norm3;
  Weight conv1, conv2, shortcut;
  int64_t has_shortcut;
};

struct Shape {  // as fused.py lays it out, all int64
  int64_t arch, channels, samples, depth, features, classes, batch, threads;
  Weight stem;         // of a ResNet
  Norm last;           // of RESNET: before the pool; of POST: after the stem
  Weight fc;
  int64_t fc_bias;
  int64_t connected;   // width of the teacher's features, 0 for none
  Weight connector;
  int64_t connector_bias;
};
struct Layer { int64_t in, out; Weight weight; Norm norm; };  // of an MLP
struct Link {  // a convolution of a CHAIN; before: how far its first tap reaches back
  int64_t in, out, kernel, stride, dilation, before, depthwise;
  Weight weight;
  Norm norm;
  int reach() const { return (int)std::max(before, (kernel - 1) * dilation - before); }
};

struct Epoch {
  const float *x, *bpm, *centres, *teacher_logits, *teacher_features, *coefficients;
  const int32_t* orders;
  float *flat, *gradient, *mean, *square, *running;
  int64_t steps, size, decayed;
  float clip, sigma, ce, hard, soft, tckd, nckd, feature, temperature, ramp, unlabelled_weight, standardised, inter, intra;
  int64_t window, unlabelled;
};

struct Saved { std::vector<float> mean, inverse, scale, bias; };  // of a norm, by channel

struct BlockMaps { Map in, pre, mid, post, out, d_out, d_post, d_mid, d_pre; Saved s1, s2; };
// raw: what a norm takes. conv1 gives raw1, and after its norm mid; conv2 gives raw2, the shortcut raw3.
struct PostMaps { Map in, raw1, mid, raw2, raw3, kept, out, d_out, d_raw2, d_raw3, d_mid, d_raw1; Saved s1, s2, s3; };
struct LayerMaps { Map in, mid, out, d_out, d_mid; Saved s; };  // of an MLP's layer, or of a CHAIN's convolution

struct Net {
  Shape s;
  int tiles, threads;
  std::vector<Block> blocks;
  std::vector<Layer> layers;
  std::vector<Link> links;
  std::vector<BlockMaps> maps;
  std::vector<LayerMaps> lmaps;
  std::vector<PostMaps> pmaps;
  Map input, last, d_last, features, d_features, logits, d_logits, connected, d_connected, stem, d_stem, d_first;
  Saved s_last;
  std::vector<float*> owned;
  std::vector<float> packed;
  std::vector<vec> lanes;  // 1 in a lane that holds a window, else 0; by vector of the batch

  Map map(int channels, int length, int halo) {
    Map m{tiles, channels, length, halo, nullptr};
    size_t bytes = (size_t)tiles * channels * m.channel() * sizeof(float);
    m.data = (float*)std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    std::memset(m.data, 0, bytes);
    owned.push_back(m.data);
    return m;
  }
  ~Net() { for (float* p : owned) std::free(p); }
};

#define PARALLEL _Pragma("omp parallel for schedule(static) num_threads(threads) if (threads > 1)")

// convolutions

// y[b][i * os] (+)= sum over c, k of w[c][k][b] x[c][i * s + k], for CB output channels b and n positions i.
template <int KK, int CB>
static void rows(const float* x, ptrdiff_t xc, const float* w, float* y, ptrdiff_t yc, int cin, int n, int s, int os, bool add) {
  for (int i = 0; i < n; i++) {
    vec a[CB][2];
    float* yi = y + (ptrdiff_t)i * os * LT;
    for (int b = 0; b < CB; b++) {
      a[b][0] = add ? load(yi + b * yc) : vec{};
      a[b][1] = add ? load(yi + b * yc + V) : vec{};
    }
    const float *xi = x + (ptrdiff_t)i * s * LT, *wc = w;
    for (int c = 0; c < cin; c++, xi += xc, wc += KK * CB)
      for (int k = 0; k < KK; k++) {
        vec x0 = load(xi + k * LT), x1 = load(xi + k * LT + V);
        for (int b = 0; b < CB; b++) {
          float f = wc[k * CB + b];
          a[b][0] += f * x0;
          a[b][1] += f * x1;
        }
      }
    for (int b = 0; b < CB; b++) {
      store(yi + b * yc, a[b][0]);
      store(yi + b * yc + V, a[b][1]);
    }
  }
}

static int block_of(int left) { return left >= WIDE ? WIDE : left >= MID ? MID : left >= 2 ? 2 : 1; }
// With 8 channels left, two blocks of 4 are better than 6 and 2.
static int next_block(int left) {
  if (left % WIDE == 0 || left > 2 * WIDE) return block_of(left);
  if (left % MID == 0 || left == WIDE + MID) return left % MID == 0 ? MID : WIDE;
  return block_of(left);
}

// A convolution over every tile: output channel o of `cout`, position i, reads input position i * s + off + k.
// weight(o, c, k) gives the number. Writes position i to i * os + oo of y.
template <int KK, class F>
static void conv(Net& N, const Map& x, const Map& y, int cin, int cout, int n, int s, int off, int os, int oo, bool add, F weight) {
  std::vector<std::pair<int, int>> parts;
  for (int o = 0; o < cout;) {
    int cb = next_block(cout - o);
    parts.push_back({o, cb});
    o += cb;
  }
  N.packed.resize((size_t)cin * cout * KK);
  float* p = N.packed.data();
  for (auto [o, cb] : parts)
    for (int c = 0; c < cin; c++)
      for (int k = 0; k < KK; k++)
        for (int b = 0; b < cb; b++) *p++ = weight(o + b, c, k);
  int jobs = x.tiles * (int)parts.size(), threads = N.threads;
  PARALLEL
  for (int job = 0; job < jobs; job++) {
    int t = job / (int)parts.size();
    auto [o, cb] = parts[job % parts.size()];
    const float *from = x.at(t, 0) + (ptrdiff_t)off * LT, *w = N.packed.data() + (size_t)o * cin * KK;
    float* to = y.at(t, o) + (ptrdiff_t)oo * LT;
#define CASE(B) if (cb == B) { rows<KK, B>(from, x.channel(), w, to, y.channel(), cin, n, s, os, add); continue; }
    CASE(WIDE) CASE(MID) CASE(2) CASE(1)
#undef CASE
  }
}

// Gradient of a convolution's weights: dw[o][c][k] = sum over windows, i of dy[o][i] x[c][i * s + off + k].
// One tile's part for CB output and IB input channels; dy's rows stay in the nearest cache while c goes on.
template <int KK, int CB, int IB>
static void outer(const float* x, ptrdiff_t xc, const float* dy, ptrdiff_t yc, int n, int s, vec* total) {
  vec a[CB][IB][KK] = {};
  for (int i = 0; i < n; i++, dy += LT, x += (ptrdiff_t)s * LT)
    for (int h = 0; h < LT; h += V) {
      vec d[CB];
      for (int b = 0; b < CB; b++) d[b] = load(dy + b * yc + h);
      for (int j = 0; j < IB; j++)
        for (int k = 0; k < KK; k++) {
          vec xv = load(x + j * xc + k * LT + h);
          for (int b = 0; b < CB; b++) a[b][j][k] += d[b] * xv;
        }
    }
  for (int i = 0; i < CB * IB * KK; i++) total[i] += (&a[0][0][0])[i];
}

static float horizontal(vec v) {
  float r[V];
  std::memcpy(r, &v, sizeof r);
  for (int w = V / 2; w; w /= 2)
    for (int i = 0; i < w; i++) r[i] += r[i + w];
  return r[0];
}

template <int KK, int CB, int IB>
static void weight_rows(const Map& x, const Map& dy, int o, int cin, int n, int s, int off, const Weight& w, float* gradient) {
  int ins = cin / IB, rest = cin % IB;
  std::vector<vec> total((size_t)cin * CB * KK, vec{});
  vec* extra = total.data() + (size_t)ins * IB * CB * KK;
  for (int t = 0; t < x.tiles; t++) {
    const float *from = x.at(t, 0) + (ptrdiff_t)off * LT, *d = dy.at(t, o);
    for (int i = 0; i < ins; i++)
      outer<KK, CB, IB>(from + i * IB * x.channel(), x.channel(), d, dy.channel(), n, s, total.data() + (size_t)i * IB * CB * KK);
    for (int i = 0; i < rest; i++)
      outer<KK, CB, 1>(from + (ins * IB + i) * x.channel(), x.channel(), d, dy.channel(), n, s, extra + (size_t)i * CB * KK);
  }
  for (int b = 0; b < CB; b++)
    for (int c = 0; c < cin; c++)
      for (int k = 0; k < KK; k++) {
        const vec& v = c < ins * IB ? total[((size_t)(c / IB) * CB + b) * IB * KK + c % IB * KK + k]
                                    : extra[((size_t)(c - ins * IB) * CB + b) * KK + k];
        *w.at(gradient, o + b, c, k) = horizontal(v);
      }
}

template <int KK>
static void weight_gradient(Net& N, const Map& x, const Map& dy, int cin, int cout, int n, int s, int off, const Weight& w, float* gradient) {
  constexpr int CB = KK == 1 || V == 16 ? 4 : 2, IB = KK == 1 ? 2 : 1;
  int jobs = (cout + CB - 1) / CB, threads = N.threads;
  PARALLEL
  for (int job = 0; job < jobs; job++) {
    int o = job * CB;
    if (o + CB <= cout)
      weight_rows<KK, CB, IB>(x, dy, o, cin, n, s, off, w, gradient);
    else
      for (; o < cout; o++) weight_rows<KK, 1, IB>(x, dy, o, cin, n, s, off, w, gradient);
  }
}

static void forward5(Net& N, const float* flat, const Weight& w, const Map& x, const Map& y, int s, bool add) {
  conv<5>(N, x, y, x.channels, y.channels, y.length, s, -2, 1, 0, add, [&](int o, int c, int k) { return *w.at(flat, o, c, k); });
}
static void forward1(Net& N, const float* flat, const Weight& w, const Map& x, const Map& y, int s, bool add) {
  conv<1>(N, x, y, x.channels, y.channels, y.length, s, 0, 1, 0, add, [&](int o, int c, int) { return *w.at(flat, o, c, 0); });
}
// dx of y = conv(x), 5 taps: a convolution with the taps reversed; of stride 2, one for even and one for odd positions.
static void backward5(Net& N, const float* flat, const Weight& w, const Map& dy, const Map& dx, int s) {
  int out = dx.channels, in = dy.channels, L = dx.length;
  if (s == 1)
    conv<5>(N, dy, dx, in, out, L, 1, -2, 1, 0, false, [&](int c, int o, int k) { return *w.at(flat, o, c, 4 - k); });
  else {
    conv<3>(N, dy, dx, in, out, (L + 1) / 2, 1, -1, 2, 0, false, [&](int c, int o, int k) { return *w.at(flat, o, c, 4 - 2 * k); });
    conv<2>(N, dy, dx, in, out, L / 2, 1, 0, 2, 1, false, [&](int c, int o, int k) { return *w.at(flat, o, c, 3 - 2 * k); });
  }
}
static void backward1(Net& N, const float* flat, const Weight& w, const Map& dy, const Map& dx, int s, bool add) {
  conv<1>(N, dy, dx, dy.channels, dx.channels, dy.length, 1, 0, s, 0, add, [&](int c, int o, int) { return *w.at(flat, o, c, 0); });
}

// Convolutions of a CHAIN: where there is no kernel for their taps, one tap after the other. Their maps have halos
// as wide as taps reach; gradients are added where they belong, whatever comes to lie in a halo is never read.

static void forward_taps(Net& N, const float* flat, const Link& l, const Map& x, const Map& y) {
  int in = x.channels, out = y.channels, n = y.length, s = (int)l.stride, off = -(int)l.before;
  auto weight = [&](int o, int c, int k) { return *l.weight.at(flat, o, c, k); };
  if (l.kernel == 3 && l.dilation == 1) return conv<3>(N, x, y, in, out, n, s, off, 1, 0, false, weight);
  if (l.kernel == 5 && l.dilation == 1) return conv<5>(N, x, y, in, out, n, s, off, 1, 0, false, weight);
  for (int k = 0; k < l.kernel; k++, off += (int)l.dilation)
    conv<1>(N, x, y, in, out, n, s, off, 1, 0, k > 0, [&](int o, int c, int) { return weight(o, c, k); });
}
static void backward_taps(Net& N, const float* flat, const Link& l, const Map& dy, const Map& dx) {
  std::memset(dx.data, 0, sizeof(float) * dx.tiles * dx.channels * dx.channel());
  int in = dy.channels, out = dx.channels, at = -(int)l.before;
  for (int k = 0; k < l.kernel; k++, at += (int)l.dilation)
    conv<1>(N, dy, dx, in, out, dy.length, 1, 0, (int)l.stride, at, true, [&](int c, int o, int) { return *l.weight.at(flat, o, c, k); });
}
static void taps_gradient(Net& N, const Link& l, const Map& x, const Map& dy, float* gradient) {
  int in = x.channels, out = dy.channels, n = dy.length, s = (int)l.stride, off = -(int)l.before;
  if (l.kernel == 3 && l.dilation == 1) return weight_gradient<3>(N, x, dy, in, out, n, s, off, l.weight, gradient);
  if (l.kernel == 5 && l.dilation == 1) return weight_gradient<5>(N, x, dy, in, out, n, s, off, l.weight, gradient);
  Weight w = l.weight;
  for (int k = 0; k < l.kernel; k++, off += (int)l.dilation, w.start += w.tap)
    weight_gradient<1>(N, x, dy, in, out, n, s, off, w, gradient);
}

// Each channel alone; KK taps, or any number if that is 0.
template <int KK>
static void forward_each(Net& N, const float* flat, const Link& l, const Map& x, const Map& y) {
  int threads = N.threads, jobs = x.tiles * x.channels, K = KK ? KK : (int)l.kernel;
  PARALLEL
  for (int job = 0; job < jobs; job++) {
    int t = job / x.channels, c = job % x.channels;
    const float* from = x.at(t, c) - l.before * LT;
    float* to = y.at(t, c);
    for (int i = 0; i < y.length; i++, to += LT, from += l.stride * LT) {
      vec a = {}, b = {};
      for (int k = 0; k < K; k++) {
        float w = *l.weight.at(flat, c, 0, k);
        a += w * load(from + k * LT);
        b += w * load(from + k * LT + V);
      }
      store(to, a);
      store(to + V, b);
    }
  }
}
template <int KK>
static void backward_each(Net& N, const float* flat, const Link& l, const Map& dy, const Map& dx) {
  int threads = N.threads, jobs = dx.tiles * dx.channels, K = KK ? KK : (int)l.kernel;
  std::memset(dx.data, 0, sizeof(float) * dx.tiles * dx.channels * dx.channel());
  PARALLEL
  for (int job = 0; job < jobs; job++) {
    int t = job / dx.channels, c = job % dx.channels;
    const float* from = dy.at(t, c);
    float* to = dx.at(t, c) - l.before * LT;
    for (int i = 0; i < dy.length; i++, from += LT, to += l.stride * LT) {
      vec a = load(from), b = load(from + V);
      for (int k = 0; k < K; k++) {
        float w = *l.weight.at(flat, c, 0, k);
        store(to + k * LT, load(to + k * LT) + w * a);
        store(to + k * LT + V, load(to + k * LT + V) + w * b);
      }
    }
  }
}
template <int KK>
static void each_gradient(Net& N, const Link& l, const Map& x, const Map& dy, float* gradient) {
  int threads = N.threads, C = x.channels, K = KK ? KK : (int)l.kernel;
  PARALLEL
  for (int c = 0; c < C; c++) {
    std::vector<vec> a(K, vec{});
    for (int t = 0; t < x.tiles; t++) {
      const float *from = x.at(t, c) - l.before * LT, *d = dy.at(t, c);
      for (int i = 0; i < dy.length; i++, d += LT, from += l.stride * LT)
        for (int h = 0; h < LT; h += V) {
          vec dv = load(d + h);
          for (int k = 0; k < K; k++) a[k] += dv * load(from + k * LT + h);
        }
    }
    for (int k = 0; k < K; k++) *l.weight.at(gradient, c, 0, k) = horizontal(a[k]);
  }
}

// batch norm, and ReLU unless `relu` is false

static vec floor_of(bool relu) { return all(relu ? 0 : -INFINITY); }

static void norm_affine(Net& N, const Map& x, const Map& y, const Saved& s, bool relu) {
  vec least = floor_of(relu);
  int threads = N.threads, jobs = x.tiles * x.channels;
  PARALLEL
  for (int job = 0; job < jobs; job++) {
    int t = job / x.channels, c = job % x.channels;
    const float* from = x.at(t, c);
    float *to = y.at(t, c), m = s.mean[c], a = s.scale[c], o = s.bias[c];
    for (int h = 0; h < LT; h += V) {
      vec lane = N.lanes[t * 2 + h / V];
      for (ptrdiff_t i = h; i < (ptrdiff_t)x.length * LT; i += LT) {
        vec r = (load(from + i) - m) * a + o;
        store(to + i, pick(r < least, least, r) * lane);  // keeps NaN
      }
    }
  }
}

static void norm_train(Net& N, const float* flat, float* running, const Norm& n, const Map& x, const Map& y, Saved& s, bool relu) {
  int threads = N.threads, C = x.channels;
  double count = (double)N.s.batch * x.length;
  PARALLEL
  for (int c = 0; c < C; c++) {
    double total = 0, squares = 0;
    for (int t = 0; t < x.tiles; t++) {
      vec a = {}, b = {};
      const float* p = x.at(t, c);
      for (ptrdiff_t i = 0; i < (ptrdiff_t)x.length * LT; i += LT) a += load(p + i), b += load(p + i + V);
      total += sum(a) + sum(b);
    }
    float m = (float)(total / count);
    for (int t = 0; t < x.tiles; t++) {
      vec a = {}, b = {};
      const float* p = x.at(t, c);
      for (ptrdiff_t i = 0; i < (ptrdiff_t)x.length * LT; i += LT) {
        vec d0 = load(p + i) - m, d1 = load(p + i + V) - m;
        a += d0 * d0;
        b += d1 * d1;
      }
      squares += sum(a * N.lanes[t * 2]) + sum(b * N.lanes[t * 2 + 1]);
    }
    double var = squares / count;
    float inverse = (float)(1 / std::sqrt(var + EPS));
    s.mean[c] = m;
    s.inverse[c] = inverse;
    s.scale[c] = inverse * flat[n.weight + c];
    s.bias[c] = flat[n.bias + c];
    running[n.mean + c] += MOMENTUM * (m - running[n.mean + c]);
    running[n.var + c] += MOMENTUM * ((float)(var * count / std::max(count - 1, 1.0)) - running[n.var + c]);
  }
  norm_affine(N, x, y, s, relu);
}

static void norm_eval(Net& N, const float* flat, const float* running, const Norm& n, const Map& x, const Map& y, Saved& s, bool relu) {
  for (int c = 0; c < x.channels; c++) {
    s.mean[c] = running[n.mean + c];
    s.scale[c] = flat[n.weight + c] / std::sqrt(running[n.var + c] + EPS);
    s.bias[c] = flat[n.bias + c];
  }
  norm_affine(N, x, y, s, relu);
}

// dx from the gradient dy of relu(norm(x)); plus what `skip` holds, if it is given.
static void norm_backward(Net& N, const float* flat, float* gradient, const Norm& n, const Map& x, const Map& dy, const Map& dx, const Saved& s, const Map* skip, bool relu = true) {
  vec least = floor_of(relu);
  int threads = N.threads, C = x.channels;
  double count = (double)N.s.batch * x.length;
  PARALLEL
  for (int c = 0; c < C; c++) {
    float a = s.scale[c], o = s.bias[c], m = s.mean[c], inverse = s.inverse[c];
    double to_bias = 0, to_weight = 0;
    for (int t = 0; t < x.tiles; t++) {
      vec b0 = {}, b1 = {}, w0 = {}, w1 = {};
      const float *p = x.at(t, c), *q = dy.at(t, c);
      for (ptrdiff_t i = 0; i < (ptrdiff_t)x.length * LT; i += LT) {
        vec x0 = load(p + i) - m, x1 = load(p + i + V) - m;
        vec d0 = pick(x0 * a + o <= least, vec{}, load(q + i)), d1 = pick(x1 * a + o <= least, vec{}, load(q + i + V));
        b0 += d0;
        b1 += d1;
        w0 += d0 * x0;
        w1 += d1 * x1;
      }
      to_bias += sum(b0) + sum(b1);
      to_weight += sum(w0) + sum(w1);
    }
    to_weight *= inverse;
    gradient[n.weight + c] = (float)to_weight;
    gradient[n.bias + c] = (float)to_bias;
    float k1 = (float)(to_bias / count), k2 = (float)(to_weight * inverse / count);
    for (int t = 0; t < x.tiles; t++)
      for (int h = 0; h < LT; h += V) {
        const float *p = x.at(t, c) + h, *q = dy.at(t, c) + h, *r = skip ? skip->at(t, c) + h : nullptr;
        float* to = dx.at(t, c) + h;
        vec lane = N.lanes[t * 2 + h / V];
        for (ptrdiff_t i = 0; i < (ptrdiff_t)x.length * LT; i += LT) {
          vec xv = load(p + i) - m, d = pick(xv * a + o <= least, vec{}, load(q + i));
          vec v = a * (d - k1 - xv * k2) * lane;
          store(to + i, r ? v + load(r + i) : v);
        }
      }
  }
}

// the network

static void fill(Net& N, const float* x, const int32_t* index, int count) {
  int C = N.input.channels, L = N.input.length;
  size_t window = (size_t)C * L;
  for (int t = 0; t < N.tiles; t++)
    for (int c = 0; c < C; c++) {
      float* to = N.input.at(t, c);
      const float* from[LT];
      for (int j = 0; j < LT; j++) {
        int n = t * LT + j;
        from[j] = n < count ? x + (index ? index[n] : n) * window + (size_t)c * L : nullptr;
      }
      for (int l = 0; l < L; l++)
        for (int j = 0; j < LT; j++) to[l * LT + j] = from[j] ? from[j][l] : 0.0f;
    }
}

// to[i] = f(to[i], from[i]) over maps of one shape, halos left out
template <class F>
static void combine(Net& N, const Map& from, const Map& to, F f) {
  int threads = N.threads, jobs = to.tiles * to.channels;
  PARALLEL
  for (int job = 0; job < jobs; job++) {
    int t = job / to.channels, c = job % to.channels;
    const float* p = from.at(t, c);
    float* q = to.at(t, c);
    for (ptrdiff_t i = 0; i < (ptrdiff_t)to.length * LT; i += V) store(q + i, f(load(q + i), load(p + i)));
  }
}

static vec relu_of_sum(vec a, vec b) {
  vec r = a + b;
  return pick(r < 0, vec{}, r);
}

template <class Normalise>
static void pre_blocks(Net& N, const float* flat, Normalise norm) {
  forward5(N, flat, N.s.stem, N.input, N.maps[0].in, 1, false);
  for (size_t i = 0; i < N.blocks.size(); i++) {
    Block& b = N.blocks[i];
    BlockMaps& m = N.maps[i];
    norm(b.norm1, m.in, m.pre, m.s1, true);
    forward5(N, flat, b.conv1, m.pre, m.mid, (int)b.stride, false);
    norm(b.norm2, m.mid, m.post, m.s2, true);
    if (b.has_shortcut)
      forward1(N, flat, b.shortcut, m.pre, m.out, (int)b.stride, false);
    else
      std::memcpy(m.out.data, m.in.data, sizeof(float) * m.in.tiles * m.in.channels * m.in.channel());
    forward5(N, flat, b.conv2, m.post, m.out, 1, true);
  }
  norm(N.s.last, N.maps.back().out, N.last, N.s_last, true);
}

template <class Normalise>
static void post_blocks(Net& N, const float* flat, Normalise norm) {
  forward5(N, flat, N.s.stem, N.input, N.stem, 1, false);
  norm(N.s.last, N.stem, N.pmaps[0].in, N.s_last, true);
  for (size_t i = 0; i < N.blocks.size(); i++) {
    Block& b = N.blocks[i];
    PostMaps& m = N.pmaps[i];
    forward5(N, flat, b.conv1, m.in, m.raw1, (int)b.stride, false);
    norm(b.norm1, m.raw1, m.mid, m.s1, true);
    forward5(N, flat, b.conv2, m.mid, m.raw2, 1, false);
    norm(b.norm2, m.raw2, m.out, m.s2, false);
    if (b.has_shortcut) {
      forward1(N, flat, b.shortcut, m.in, m.raw3, (int)b.stride, false);
      norm(b.norm3, m.raw3, m.kept, m.s3, false);
    }
    combine(N, b.has_shortcut ? m.kept : m.in, m.out, relu_of_sum);
  }
}

template <class Normalise>
static void chain(Net& N, const float* flat, Normalise norm) {
  for (size_t i = 0; i < N.links.size(); i++) {
    const Link& l = N.links[i];
    LayerMaps& m = N.lmaps[i];
    if (l.depthwise)
      (l.kernel == 9 ? forward_each<9> : forward_each<0>)(N, flat, l, m.in, m.mid);
    else
      forward_taps(N, flat, l, m.in, m.mid);
    norm(l.norm, m.mid, m.out, m.s, true);
  }
}

template <class Normalise>
static void features(Net& N, const float* flat, Normalise norm) {
  if (N.s.arch == MLP) {
    for (size_t i = 0; i < N.layers.size(); i++) {
      LayerMaps& m = N.lmaps[i];
      forward1(N, flat, N.layers[i].weight, m.in, m.mid, 1, false);
      norm(N.layers[i].norm, m.mid, m.out, m.s, true);
    }
    return;
  }
  if (N.s.arch == POST)
    post_blocks(N, flat, norm);
  else if (N.s.arch == CHAIN)
    chain(N, flat, norm);
  else
    pre_blocks(N, flat, norm);
  for (int t = 0; t < N.tiles; t++)
    for (int f = 0; f < N.features.channels; f++)
      for (int h = 0; h < LT; h += V) {
        vec a = {};
        const float* p = N.last.at(t, f) + h;
        for (int l = 0; l < N.last.length; l++) a += load(p + l * LT);
        store(N.features.at(t, f) + h, a / (float)N.last.length);
      }
}

static void affine(Net& N, const float* flat, const Weight& w, int64_t bias, const Map& x, const Map& y) {
  forward1(N, flat, w, x, y, 1, false);
  for (int t = 0; t < y.tiles; t++)
    for (int c = 0; c < y.channels; c++)
      for (int h = 0; h < LT; h += V) store(y.at(t, c) + h, load(y.at(t, c) + h) + flat[bias + c]);
}

static void affine_backward(Net& N, const float* flat, float* gradient, const Weight& w, int64_t bias, const Map& x, const Map& dy, const Map& dx, bool add) {
  weight_gradient<1>(N, x, dy, x.channels, dy.channels, 1, 1, 0, w, gradient);
  for (int c = 0; c < dy.channels; c++) {
    double s = 0;
    for (int t = 0; t < dy.tiles; t++)
      for (int h = 0; h < LT; h += V) s += sum(load(dy.at(t, c) + h));
    gradient[bias + c] = (float)s;
  }
  backward1(N, flat, w, dy, dx, 1, add);
}

static void backward_pre_blocks(Net& N, const float* flat, float* gradient) {
  norm_backward(N, flat, gradient, N.s.last, N.maps.back().out, N.d_last, N.maps.back().d_out, N.s_last, nullptr);
  for (int i = (int)N.blocks.size() - 1; i >= 0; i--) {
    Block& b = N.blocks[i];
    BlockMaps& m = N.maps[i];
    int s = (int)b.stride, n = m.out.length;
    weight_gradient<5>(N, m.post, m.d_out, m.post.channels, m.out.channels, n, 1, -2, b.conv2, gradient);
    backward5(N, flat, b.conv2, m.d_out, m.d_post, 1);
    norm_backward(N, flat, gradient, b.norm2, m.mid, m.d_post, m.d_mid, m.s2, nullptr);
    weight_gradient<5>(N, m.pre, m.d_mid, m.pre.channels, m.mid.channels, n, s, -2, b.conv1, gradient);
    backward5(N, flat, b.conv1, m.d_mid, m.d_pre, s);
    if (b.has_shortcut) {
      weight_gradient<1>(N, m.pre, m.d_out, m.pre.channels, m.out.channels, n, s, 0, b.shortcut, gradient);
      backward1(N, flat, b.shortcut, m.d_out, m.d_pre, s, true);
    }
    const Map& to = i ? N.maps[i - 1].d_out : N.d_stem;
    norm_backward(N, flat, gradient, b.norm1, m.in, m.d_pre, to, m.s1, b.has_shortcut ? nullptr : &m.d_out);
  }
}

static void backward_post_blocks(Net& N, const float* flat, float* gradient) {
  for (int i = (int)N.blocks.size() - 1; i >= 0; i--) {
    Block& b = N.blocks[i];
    PostMaps& m = N.pmaps[i];
    const Map& to = i ? N.pmaps[i - 1].d_out : N.d_first;
    int s = (int)b.stride, n = m.out.length;
    combine(N, m.out, m.d_out, [](vec d, vec y) { return pick(y <= 0, vec{}, d); });
    norm_backward(N, flat, gradient, b.norm2, m.raw2, m.d_out, m.d_raw2, m.s2, nullptr, false);
    weight_gradient<5>(N, m.mid, m.d_raw2, m.mid.channels, m.out.channels, n, 1, -2, b.conv2, gradient);
    backward5(N, flat, b.conv2, m.d_raw2, m.d_mid, 1);
    norm_backward(N, flat, gradient, b.norm1, m.raw1, m.d_mid, m.d_raw1, m.s1, nullptr);
    weight_gradient<5>(N, m.in, m.d_raw1, m.in.channels, m.mid.channels, n, s, -2, b.conv1, gradient);
    backward5(N, flat, b.conv1, m.d_raw1, to, s);
    if (b.has_shortcut) {
      norm_backward(N, flat, gradient, b.norm3, m.raw3, m.d_out, m.d_raw3, m.s3, nullptr, false);
      weight_gradient<1>(N, m.in, m.d_raw3, m.in.channels, m.out.channels, n, s, 0, b.shortcut, gradient);
      backward1(N, flat, b.shortcut, m.d_raw3, to, s, true);
    } else
      combine(N, m.d_out, to, [](vec a, vec d) { return a + d; });
  }
  norm_backward(N, flat, gradient, N.s.last, N.stem, N.d_first, N.d_stem, N.s_last, nullptr);
}

static void backward_chain(Net& N, const float* flat, float* gradient) {
  for (int i = (int)N.links.size() - 1; i >= 0; i--) {
    const Link& l = N.links[i];
    LayerMaps& m = N.lmaps[i];
    norm_backward(N, flat, gradient, l.norm, m.mid, m.d_out, m.d_mid, m.s, nullptr);
    if (l.depthwise) {
      (l.kernel == 9 ? each_gradient<9> : each_gradient<0>)(N, l, m.in, m.d_mid, gradient);
      if (i) (l.kernel == 9 ? backward_each<9> : backward_each<0>)(N, flat, l, m.d_mid, N.lmaps[i - 1].d_out);
    } else {
      taps_gradient(N, l, m.in, m.d_mid, gradient);
      if (i) backward_taps(N, flat, l, m.d_mid, N.lmaps[i - 1].d_out);
    }
  }
}

// From the gradient of the features to that of every weight.
static void backward(Net& N, const float* flat, float* gradient) {
  if (N.s.arch == MLP) {
    for (int i = (int)N.layers.size() - 1; i >= 0; i--) {
      LayerMaps& m = N.lmaps[i];
      norm_backward(N, flat, gradient, N.layers[i].norm, m.mid, m.d_out, m.d_mid, m.s, nullptr);
      weight_gradient<1>(N, m.in, m.d_mid, m.in.channels, m.mid.channels, 1, 1, 0, N.layers[i].weight, gradient);
      if (i) backward1(N, flat, N.layers[i].weight, m.d_mid, N.lmaps[i - 1].d_out, 1, false);
    }
    return;
  }
  int L = N.last.length;
  for (int t = 0; t < N.tiles; t++)
    for (int f = 0; f < N.features.channels; f++)
      for (int h = 0; h < LT; h += V) {
        vec d = load(N.d_features.at(t, f) + h) / (float)L;
        float* p = N.d_last.at(t, f) + h;
        for (int l = 0; l < L; l++) store(p + l * LT, d);
      }
  if (N.s.arch == CHAIN) return backward_chain(N, flat, gradient);
  if (N.s.arch == POST)
    backward_post_blocks(N, flat, gradient);
  else
    backward_pre_blocks(N, flat, gradient);
  weight_gradient<5>(N, N.input, N.d_stem, N.input.channels, N.d_stem.channels, N.d_stem.length, 1, -2, N.s.stem, gradient);
}

// losses (kd.training.losses), V windows at a time; gives their weighted sum and its gradient by the logits

static inline vec tempered(const float* z, int c, float inverse) { return load(z + c * LT) * inverse; }

// own, theirs: how much each window counts in terms that need its label, and in those that need a teacher.
static vec loss_of(const Epoch& e, int K, const float* z, const vec* teacher, vec bpm, vec own, vec theirs,
                   float* dz, vec* work) {
  vec total = {};
  vec *p = work, *q = p + K, *r = q + K;
  for (int c = 0; c < K; c++) store(dz + c * LT, vec{});
  ivec label;
  for (int i = 0; i < V; i++) {
    float at = std::nearbyint(bpm[i] - e.centres[0]);
    label[i] = (int)std::min(std::max(at, 0.0f), (float)(K - 1));
  }
  if (e.ce != 0 || e.hard != 0) {
    vec most = load(z);
    for (int c = 1; c < K; c++) { vec v = load(z + c * LT); most = pick(v <= most, most, v); }
    vec s = {};
    for (int c = 0; c < K; c++) s += p[c] = exp(load(z + c * LT) - most);
    vec log_sum = log(s) + most, share = 1.0f / s;
    if (e.ce != 0) {
      vec norm = {}, nearest = all(INFINITY), far = {};
      if (e.sigma > 0) {
        for (int c = 0; c < K; c++) {
          vec d = (e.centres[c] - bpm) / e.sigma;
          q[c] = 0.5f * d * d;
          nearest = pick(q[c] < nearest, q[c], nearest);
        }
        for (int c = 0; c < K; c++) norm += q[c] = exp(nearest - q[c]);
        norm = 1.0f / norm;
      }
      for (int c = 0; c < K; c++) {
        vec target = e.sigma > 0 ? q[c] * norm : pick(label == c, all(1), vec{});
        far += target * (log_sum - load(z + c * LT));
        store(dz + c * LT, e.ce * own * (p[c] * share - target));
      }
      total += e.ce * own * far;
    }
    if (e.hard != 0) {
      vec best = teacher[0];
      ivec which = {};
      for (int c = 1; c < K; c++) {
        ivec more = teacher[c] > best;
        best = pick(more, teacher[c], best);
        which = more ? ivec{} + c : which;
      }
      vec at = {};
      for (int c = 0; c < K; c++) {
        ivec here = which == c;
        at = pick(here, load(z + c * LT), at);
        store(dz + c * LT, load(dz + c * LT) + e.hard * theirs * (p[c] * share - pick(here, all(1), vec{})));
      }
      total += e.hard * theirs * (log_sum - at);
    }
  }
  if (e.soft == 0 && e.tckd == 0 && e.nckd == 0) return total;
  float it = 1 / e.temperature, T = e.temperature;
  vec zm = tempered(z, 0, it), tm = teacher[0] * it;
  for (int c = 1; c < K; c++) {
    vec a = tempered(z, c, it), b = teacher[c] * it;
    zm = pick(a <= zm, zm, a);
    tm = pick(b <= tm, tm, b);
  }
  vec zs = {}, ts = {};
  for (int c = 0; c < K; c++) {
    zs += p[c] = exp(tempered(z, c, it) - zm);
    ts += q[c] = exp(teacher[c] * it - tm);
  }
  vec zl = log(zs) + zm, tl = log(ts) + tm, zi = 1.0f / zs, ti = 1.0f / ts;  // log of the sums, and shares
  if (e.soft != 0) {
    vec kl = {};
    for (int c = 0; c < K; c++) {
      vec share = q[c] * ti;
      kl += share * ((teacher[c] * it - tl) - (tempered(z, c, it) - zl));
      store(dz + c * LT, load(dz + c * LT) + e.soft * T * theirs * (p[c] * zi - share));
    }
    total += e.soft * T * T * theirs * kl;
  }
  if (e.tckd != 0 || e.nckd != 0) {
    int window = (int)e.window;
    auto near = [&](int c) { ivec d = label - c; return (d <= window) & (d >= -window); };
    vec low = all(-INFINITY), zr = low, tr = low;  // the largest of the other classes
    for (int c = 0; c < K; c++) {
      ivec in = near(c);
      vec a = pick(in, low, tempered(z, c, it)), b = pick(in, low, teacher[c] * it);
      zr = pick(a <= zr, zr, a);
      tr = pick(b <= tr, tr, b);
    }
    vec rs = {}, rt = {};
    for (int c = 0; c < K; c++) {
      ivec in = near(c);
      vec a = pick(in, vec{}, exp(tempered(z, c, it) - zr)), b = pick(in, vec{}, exp(teacher[c] * it - tr));
      rs += r[c] = a;
      rt += r[K + c] = b;
    }
    vec log_ps = log(rs) + zr - zl, log_pt = log(rt) + tr - tl;  // log p(other classes)
    vec pt = exp(log_pt), is = 1.0f / rs, iq = 1.0f / rt, apart = log_pt - log_ps;
    vec tckd = pt * apart, nckd = {};
    vec a = e.tckd * e.ramp * T * theirs, b = e.nckd * e.ramp * T * theirs;
    for (int c = 0; c < K; c++) {
      ivec in = near(c);
      vec log_s = tempered(z, c, it) - zl, log_t = teacher[c] * it - tl;
      vec ps = p[c] * zi, q_in = r[K + c] * iq, p_in = r[c] * is;  // the latter within the other classes
      vec t_share = q[c] * ti;
      tckd += pick(in, t_share * (log_t - log_s), vec{});
      nckd += pick(in, vec{}, q_in * (log_t - log_s - apart));
      vec dt = ps - pick(in, t_share, pt * p_in), dn = pick(in, vec{}, p_in - q_in);
      store(dz + c * LT, load(dz + c * LT) + a * dt + b * dn);
    }
    total += T * (a * tckd + b * nckd);
  }
  return total;
}

static inline vec root(vec x) {
  for (int i = 0; i < V; i++) x[i] = std::sqrt(x[i]);
  return x;
}

// p: the softmax of K numbers z / T, by class, `stride` floats apart. Gives log of their sum of exps.
static vec softmax(const float* z, ptrdiff_t stride, int K, float inverse, vec* p) {
  vec most = load(z) * inverse, total = {};
  for (int c = 1; c < K; c++) { vec v = load(z + c * stride) * inverse; most = pick(v <= most, most, v); }
  vec lost = {};  // Kahan's: an error of the sum would be in all classes alike
  for (int c = 0; c < K; c++) {
    p[c] = exp(load(z + c * stride) * inverse - most);
    vec more = p[c] - lost, next = total + more;
    lost = (next - total) - more;
    total = next;
  }
  for (int c = 0; c < K; c++) p[c] /= total;
  return log(total) + most;
}

// u: the z-scores of K numbers z. Gives their inverse standard deviation; all equal, all 0.
static vec z_scores(const float* z, ptrdiff_t stride, int K, vec* u) {
  vec mean = {}, variance = {};
  for (int c = 0; c < K; c++) mean += load(z + c * stride);
  mean /= (float)K;
  for (int c = 0; c < K; c++) { u[c] = load(z + c * stride) - mean; variance += u[c] * u[c]; }
  vec inverse = 1.0f / root(variance / (float)K + 1e-12f);
  for (int c = 0; c < K; c++) u[c] *= inverse;
  return inverse;
}

// The same as loss_of for `standardised`: adds to dz. work: 4 K.
static vec standardised_of(const Epoch& e, int K, const float* z, const vec* teacher, vec theirs, float* dz, vec* work) {
  vec *u = work, *v = u + K, *p = v + K, *q = p + K;
  float it = 1 / e.temperature, T = e.temperature;
  vec inverse = z_scores(z, LT, K, u);
  z_scores((const float*)teacher, V, K, v);
  vec zl = softmax((const float*)u, V, K, it, p), tl = softmax((const float*)v, V, K, it, q);
  vec kl = {}, mean = {}, along = {};
  for (int c = 0; c < K; c++) {
    kl += q[c] * ((v[c] * it - tl) - (u[c] * it - zl));
    p[c] -= q[c];
    mean += p[c];
    along += p[c] * u[c];
  }
  mean /= (float)K, along /= (float)K;
  vec scale = e.standardised * T * theirs;
  for (int c = 0; c < K; c++)
    store(dz + c * LT, load(dz + c * LT) + scale * inverse * (p[c] - mean - u[c] * along));
  return scale * T * kl;
}

// Pearson's correlation of a and b, both without their means, of these squares and product summed, and the
// factors of b and of a in its gradient by a. As `_products` in kd.training.losses.
struct Correlation { double value, by_b, by_a; };
static Correlation correlation(double aa, double bb, double ab) {
  double a = std::sqrt(aa), b = std::sqrt(bb), both = a * b + 1e-8;
  return {ab / both, 1 / both, a > 0 ? -ab / (both * both) * b / a : 0.0};
}

// The loss of `dist`, summed over the batch; adds its gradient by the logits to N.d_logits. By class, the second
// relation is over all windows, so that this goes over the batch twice.
template <class F>
static double relations(Net& N, const Epoch& e, const int32_t* order, F weight) {
  int K = (int)N.s.classes, n = (int)N.s.batch, halves = N.tiles * 2, threads = N.threads;
  float it = 1 / e.temperature, T = e.temperature;
  std::vector<vec> s((size_t)halves * K), t((size_t)halves * K), weights(halves);
  std::vector<double> sums(halves, 0.0), off(K, 0.0);
  std::vector<float> ms(K), mt(K), rest_s(K), rest_t(K), by_s(K), by_t(K);  // rest: of a mean, what its float lacks
  double all_weights = 0;
  for (int h = 0; h < halves; h++)
    for (int i = 0; i < V; i++) all_weights += weights[h][i] = h * V + i < n ? weight(h * V + i) : 0.0f;
  PARALLEL
  for (int h = 0; h < halves; h++) {
    std::vector<vec> teacher(K);
    for (int i = 0; i < V; i++) {
      const float* from = e.teacher_logits + (int64_t)order[std::min(h * V + i, n - 1)] * K;
      for (int c = 0; c < K; c++) teacher[c][i] = from[c];
    }
    softmax(N.logits.at(h / 2, 0) + h % 2 * V, LT, K, it, &s[(size_t)h * K]);
    softmax((const float*)teacher.data(), V, K, it, &t[(size_t)h * K]);
  }
  PARALLEL
  for (int c = 0; c < K; c++) {
    double sum_s = 0, sum_t = 0, aa = 0, bb = 0, ab = 0;
    for (int h = 0; h < halves; h++) {
      sum_s += sum(weights[h] * s[(size_t)h * K + c]);
      sum_t += sum(weights[h] * t[(size_t)h * K + c]);
    }
    ms[c] = (float)(sum_s / all_weights), mt[c] = (float)(sum_t / all_weights);
    rest_s[c] = (float)(sum_s / all_weights - ms[c]), rest_t[c] = (float)(sum_t / all_weights - mt[c]);
    for (int h = 0; h < halves; h++) {
      vec a = s[(size_t)h * K + c] - ms[c] - rest_s[c], b = t[(size_t)h * K + c] - mt[c] - rest_t[c], w = weights[h];
      aa += sum(w * a * a), bb += sum(w * b * b), ab += sum(w * a * b);
    }
    Correlation r = correlation(aa, bb, ab);
    off[c] = 1 - r.value;
    double scale = -(double)e.intra * T * T * n / K;
    by_t[c] = (float)(scale * r.by_b), by_s[c] = (float)(scale * r.by_a);
  }
  PARALLEL
  for (int h = 0; h < halves; h++) {
    const vec *p = &s[(size_t)h * K], *q = &t[(size_t)h * K];
    std::vector<vec> g(K);
    vec mean_p = {}, mean_q = {}, aa = {}, bb = {}, ab = {}, value, by_a, by_b, along = {};
    for (int c = 0; c < K; c++) mean_p += p[c], mean_q += q[c];
    mean_p /= (float)K, mean_q /= (float)K;
    for (int c = 0; c < K; c++) {
      vec a = p[c] - mean_p, b = q[c] - mean_q;
      aa += a * a, bb += b * b, ab += a * b;
    }
    for (int i = 0; i < V; i++) {
      Correlation r = correlation(aa[i], bb[i], ab[i]);
      value[i] = (float)(1 - r.value), by_a[i] = (float)r.by_a, by_b[i] = (float)r.by_b;
    }
    vec scale = e.inter * T * T * weights[h];
    for (int c = 0; c < K; c++) {
      g[c] = -scale * (by_b * (q[c] - mean_q) + by_a * (p[c] - mean_p));
      g[c] += weights[h] * (by_t[c] * (q[c] - mt[c] - rest_t[c]) + by_s[c] * (p[c] - ms[c] - rest_s[c]));
      along += p[c] * g[c];
    }
    float* dz = N.d_logits.at(h / 2, 0) + h % 2 * V;
    for (int c = 0; c < K; c++) store(dz + c * LT, load(dz + c * LT) + p[c] * (g[c] - along) * (it / (float)n));
    sums[h] = sum(scale * value);
  }
  double loss = 0;
  for (double one : sums) loss += one;
  for (double one : off) loss += (double)e.intra * T * T * n * one / K;
  return loss;
}

static double head(Net& N, const Epoch& e, const int32_t* order) {
  int K = (int)N.s.classes, n = (int)N.s.batch, threads = N.threads;
  bool taught = e.hard != 0 || e.soft != 0 || e.tckd != 0 || e.nckd != 0 || e.standardised != 0, learns = e.feature != 0;
  // The last windows of a batch may have no label; in means over n, factors make those over labels, and weighted ones.
  int labelled = n - (int)e.unlabelled;
  float by_label = (float)n / labelled, by_teacher = n / (labelled + e.unlabelled_weight * e.unlabelled);
  auto weight = [&](int j) { return by_teacher * (j < labelled ? 1.0f : e.unlabelled_weight); };
  affine(N, e.flat, N.s.fc, N.s.fc_bias, N.features, N.logits);
  std::vector<double> sums(N.tiles, 0.0);
  PARALLEL
  for (int t = 0; t < N.tiles; t++) {
    std::vector<vec> work(5 * (size_t)K);
    vec* teacher = work.data() + 4 * (size_t)K;
    for (int h = 0; h < 2; h++) {
      vec bpm, own, theirs, lane = N.lanes[2 * t + h];
      int64_t at[V];
      for (int i = 0; i < V; i++) {
        int j = t * LT + h * V + i;
        at[i] = order[std::min(j, n - 1)];
        bpm[i] = e.bpm[at[i]];
        own[i] = j < labelled ? by_label : 0.0f;
        theirs[i] = weight(j);
      }
      if (taught)
        for (int c = 0; c < K; c++)
          for (int i = 0; i < V; i++) teacher[c][i] = e.teacher_logits[at[i] * K + c];
      if (e.unlabelled)  // the teacher's class stands in for the label
        for (int i = 0; i < V; i++) {
          if (own[i] != 0) continue;
          int most = 0;
          for (int c = 1; taught && c < K; c++)
            if (teacher[c][i] > teacher[most][i]) most = c;
          bpm[i] = e.centres[most];
        }
      float *z = N.logits.at(t, 0) + h * V, *dz = N.d_logits.at(t, 0) + h * V;
      vec loss = loss_of(e, K, z, teacher, bpm, own, theirs, dz, work.data());
      if (e.standardised != 0) loss += standardised_of(e, K, z, teacher, theirs, dz, work.data());
      for (int c = 0; c < K; c++) store(dz + c * LT, pick(lane > 0, load(dz + c * LT) / (float)n, vec{}));
      sums[t] += sum(pick(lane > 0, loss, vec{}));
    }
  }
  double loss = 0;
  for (double s : sums) loss += s;
  if (e.inter != 0 || e.intra != 0) loss += relations(N, e, order, weight);
  affine_backward(N, e.flat, e.gradient, N.s.fc, N.s.fc_bias, N.features, N.d_logits, N.d_features, false);
  if (N.s.connected) {
    int F = (int)N.s.connected;
    if (learns) {
      affine(N, e.flat, N.s.connector, N.s.connector_bias, N.features, N.connected);
      float scale = 2 * e.feature / ((float)F * n);
      for (int t = 0; t < N.tiles; t++)
        for (int f = 0; f < F; f++)
          for (int j = 0; j < LT; j++) {
            int i = t * LT + j;
            float d = i < n ? N.connected.at(t, f)[j] - e.teacher_features[(int64_t)order[i] * F + f] : 0.0f;
            N.d_connected.at(t, f)[j] = scale * weight(i) * d;
            loss += (double)e.feature * weight(i) * d * d / F;
          }
      affine_backward(N, e.flat, e.gradient, N.s.connector, N.s.connector_bias, N.features, N.d_connected, N.d_features, true);
    }
  }
  return loss / n;
}

static void adamw(const Epoch& e, const float* coefficients) {
  float keep = coefficients[0], size = coefficients[1], unbias = coefficients[2];
  double squares = 0;
  int64_t i = 0;
  for (; i + 4 * V <= e.size; i += 4 * V) {
    vec s = {};
    for (int j = 0; j < 4; j++) { vec g = load(e.gradient + i + j * V); s += g * g; }
    squares += sum(s);
  }
  for (; i < e.size; i++) squares += (double)e.gradient[i] * e.gradient[i];
  float clip = e.clip / ((float)std::sqrt(squares) + 1e-6f);
  clip = clip < 1.0f || clip != clip ? clip : 1.0f;
  for (i = 0; i < e.size; i += V) {  // places begin on cache lines, so the size is a multiple of V
    vec g = load(e.gradient + i) * clip;
    vec m = load(e.mean + i), s = load(e.square + i), w = load(e.flat + i);
    m += (g - m) * (float)(1 - BETA1);
    s = s * (float)BETA2 + g * g * (float)(1 - BETA2);
    vec root;
    for (int j = 0; j < V; j++) root[j] = std::sqrt(s[j]);
    if (i < e.decayed) w *= keep;
    w -= m / (root * unbias + ADAM_EPS) * size;
    store(e.mean + i, m);
    store(e.square + i, s);
    store(e.flat + i, w);
    store(e.gradient + i, vec{});
  }
}

static double gradients(Net& N, const Epoch& e, const int32_t* order) {
  fill(N, e.x, order, (int)N.s.batch);
  features(N, e.flat, [&](const Norm& n, const Map& x, const Map& y, Saved& s, bool relu) { norm_train(N, e.flat, e.running, n, x, y, s, relu); });
  double loss = head(N, e, order);
  backward(N, e.flat, e.gradient);
  return loss;
}

extern "C" {
// What fused.py checks before it trusts a compiled file.
int64_t kds_lanes() { return LT; }

void* kds_make(const Shape* shape, const Block* blocks, const Layer* layers, const Link* links) {
  Net* N = new Net;
  N->s = *shape;
  N->threads = (int)shape->threads;
  int batch = (int)shape->batch;
  N->tiles = (batch + LT - 1) / LT;
  for (int i = 0; i < N->tiles * 2; i++) {
    vec v;
    for (int j = 0; j < V; j++) v[j] = i * V + j < batch ? 1.0f : 0.0f;
    N->lanes.push_back(v);
  }
  auto saved = [](int64_t c) { std::vector<float> z(c); return Saved{z, z, z, z}; };
  int K = (int)shape->classes, F = (int)shape->features;
  N->features = N->map(F, 1, 0);
  N->d_features = N->map(F, 1, 0);
  N->logits = N->map(K, 1, 0);
  N->d_logits = N->map(K, 1, 0);
  if (shape->connected) {
    N->connected = N->map((int)shape->connected, 1, 0);
    N->d_connected = N->map((int)shape->connected, 1, 0);
  }
  if (shape->arch == CHAIN) {
    int L = (int)shape->samples;
    N->input = N->map((int)shape->channels, L, links[0].reach());
    Map in = N->input;
    for (int i = 0; i < shape->depth; i++) {
      const Link& l = links[i];
      int to = (L + (int)l.stride - 1) / (int)l.stride, co = (int)l.out;
      int halo = i + 1 < shape->depth ? links[i + 1].reach() : 0;
      LayerMaps m;
      m.in = in;
      for (Map* each : {&m.mid, &m.d_mid}) *each = N->map(co, to, 0);
      for (Map* each : {&m.out, &m.d_out}) *each = N->map(co, to, halo);
      m.s = saved(co);
      in = m.out;
      L = to;
      N->links.push_back(l);
      N->lmaps.push_back(m);
    }
    N->last = N->lmaps.back().out;
    N->d_last = N->lmaps.back().d_out;
  } else if (shape->arch == POST) {
    int L = (int)shape->samples;
    N->input = N->map((int)shape->channels, L, HALO);
    N->stem = N->map((int)blocks[0].in, L, 0);
    N->d_stem = N->map(N->stem.channels, L, HALO);
    N->s_last = saved(N->stem.channels);
    Map in = N->map(N->stem.channels, L, HALO);
    N->d_first = N->map(in.channels, L, 0);
    for (int i = 0; i < shape->depth; i++) {
      const Block& b = blocks[i];
      int to = (L + (int)b.stride - 1) / (int)b.stride, co = (int)b.out;
      PostMaps m;
      m.in = in;
      for (Map* each : {&m.raw1, &m.raw2, &m.d_mid, &m.d_out}) *each = N->map(co, to, 0);
      for (Map* each : {&m.mid, &m.out, &m.d_raw1, &m.d_raw2}) *each = N->map(co, to, HALO);
      if (b.has_shortcut)
        for (Map* each : {&m.raw3, &m.kept, &m.d_raw3}) *each = N->map(co, to, 0);
      m.s1 = m.s2 = m.s3 = saved(co);
      in = m.out;
      L = to;
      N->blocks.push_back(b);
      N->pmaps.push_back(m);
    }
    N->last = N->pmaps.back().out;
    N->d_last = N->pmaps.back().d_out;
  } else if (shape->arch == RESNET) {
    int L = (int)shape->samples;
    N->input = N->map((int)shape->channels, L, HALO);
    Map in = N->map((int)(shape->depth ? blocks[0].in : F), L, HALO);
    N->d_stem = N->map(in.channels, L, HALO);
    for (int i = 0; i < shape->depth; i++) {
      const Block& b = blocks[i];
      int to = (L + (int)b.stride - 1) / (int)b.stride, ci = (int)b.in, co = (int)b.out;
      BlockMaps m;
      m.in = in;
      m.pre = N->map(ci, L, HALO);
      m.mid = N->map(co, to, HALO);
      m.post = N->map(co, to, HALO);
      m.out = N->map(co, to, HALO);
      m.d_out = N->map(co, to, HALO);
      m.d_post = N->map(co, to, 0);
      m.d_mid = N->map(co, to, HALO);
      m.d_pre = N->map(ci, L, 0);
      m.s1 = saved(ci);
      m.s2 = saved(co);
      in = m.out;
      L = to;
      N->blocks.push_back(b);
      N->maps.push_back(m);
    }
    N->last = N->map(F, L, 0);
    N->d_last = N->map(F, L, 0);
    N->s_last = saved(F);
  } else {
    N->input = N->map((int)(shape->channels * shape->samples), 1, 0);
    Map in = N->input;
    for (int i = 0; i < shape->depth; i++) {
      LayerMaps m;
      m.in = in;
      m.mid = N->map((int)layers[i].out, 1, 0);
      bool last = i == shape->depth - 1;
      m.out = last ? N->features : N->map((int)layers[i].out, 1, 0);
      m.d_out = last ? N->d_features : N->map((int)layers[i].out, 1, 0);
      m.d_mid = N->map((int)layers[i].out, 1, 0);
      m.s = saved(layers[i].out);
      in = m.out;
      N->layers.push_back(layers[i]);
      N->lmaps.push_back(m);
    }
  }
  return N;
}

void kds_free(void* net) { delete (Net*)net; }

// Train an epoch; the mean loss of its steps.
double kds_epoch(void* net, const Epoch* e) {
  Net& N = *(Net*)net;
  double total = 0;
  for (int64_t step = 0; step < e->steps; step++) {
    total += gradients(N, *e, e->orders + step * N.s.batch);
    adamw(*e, e->coefficients + step * 3);
  }
  return total / (double)e->steps;
}

// The gradient of the first batch, without a step; its loss. For tests.
double kds_gradients(void* net, const Epoch* e) { return gradients(*(Net*)net, *e, e->orders); }

// One step of AdamW on what the gradient holds. For tests.
void kds_adamw(const Epoch* e) { adamw(*e, e->coefficients); }

// Logits (n, K) of n windows x in evaluation mode.
// Logits (n, K) and, where asked for, features (n, F).
void kds_outputs(void* net, const float* x, int64_t n, const float* flat, const float* running, float* logits, float* given) {
  Net& N = *(Net*)net;
  int K = (int)N.s.classes, F = (int)N.s.features, batch = N.tiles * LT;
  size_t window = (size_t)N.s.channels * N.s.samples;
  std::vector<vec> kept(N.lanes);
  for (vec& v : N.lanes) v = all(1);
  for (int64_t first = 0; first < n; first += batch) {
    int count = (int)std::min<int64_t>(batch, n - first);
    fill(N, x + first * window, nullptr, count);
    features(N, flat, [&](const Norm& norm, const Map& from, const Map& to, Saved& s, bool relu) { norm_eval(N, flat, running, norm, from, to, s, relu); });
    affine(N, flat, N.s.fc, N.s.fc_bias, N.features, N.logits);
    for (int i = 0; i < count; i++) {
      for (int c = 0; c < K; c++) logits[(first + i) * K + c] = N.logits.at(i / LT, c)[i % LT];
      for (int f = 0; given && f < F; f++) given[(first + i) * F + f] = N.features.at(i / LT, f)[i % LT];
    }
  }
  N.lanes = kept;
}
}
