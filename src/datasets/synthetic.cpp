// Street scenes with the classes of Cityscapes and, roughly, their frequencies.
//
// A pinhole camera stands on a straight street. Lengths are in millimetres; `ground` below is how far, in pixels, a point of
// the road lies under the horizon: at that depth kCamera millimetres measure `ground` pixels, which gives the scale of
// everything that stands there.
#include "datasets/synthetic.h"

#include <algorithm>
#include <array>

#include "datasets/file_list.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/random.h"

namespace semiseg {
namespace {

enum Class : uint8_t {
  kRoad,
  kSidewalk,
  kBuilding,
  kWall,
  kFence,
  kPole,
  kTrafficLight,
  kTrafficSign,
  kVegetation,
  kTerrain,
  kSky,
  kPerson,
  kRider,
  kCar,
  kTruck,
  kBus,
  kTrain,
  kMotorcycle,
  kBicycle
};

constexpr int64_t kCamera = 1300;      // height of the camera
constexpr int64_t kFarthest = 120000;  // where the street ends
constexpr uint64_t kValStream = uint64_t{1} << 40;
constexpr int64_t kMinSide = 32;

struct Colour {
  int64_t r, g, b;
};

Colour operator+(const Colour& c, int64_t shift) { return {c.r + shift, c.g + shift, c.b + shift}; }

// Two 16-bit coordinates and a key, mixed (the finaliser of MurmurHash3).
uint32_t hash(int64_t x, int64_t y, uint32_t key) {
  uint32_t h = static_cast<uint32_t>(x) * 0x9e3779b1u ^ (static_cast<uint32_t>(y) * 0x85ebca77u + key);
  h = (h ^ h >> 16) * 0x85ebca6bu;
  h = (h ^ h >> 13) * 0xc2b2ae35u;
  return h ^ h >> 16;
}

// Uniform in -amplitude..amplitude.
int64_t grain(int64_t x, int64_t y, uint32_t key, int64_t amplitude) {
  return static_cast<int64_t>(hash(x, y, key) >> 8 & 0xffff) * (2 * amplitude + 1) / 65536 - amplitude;
}

int64_t floor_mod(int64_t a, int64_t b) { return (a % b + b) % b; }

class Scene {
 public:
  Scene(uint64_t seed, uint64_t stream, int64_t H, int64_t W)
      : random_(seed, Purpose::kScene, stream),
        H_(H),
        W_(W),
        image_(static_cast<size_t>(H * W)),
        label_(static_cast<size_t>(H * W)) {}

  Sample draw() {
    horizon_ = H_ * between(38, 46) / 100;
    vanish_ = W_ / 2 + between(-W_ / 12, W_ / 12);
    focal_ = W_ * 11 / 10;
    half_road_ = between(3300, 5000);
    sidewalk_ = {between(1800, 4600), between(1800, 4600)};
    key_ = random_.next();

    draw_sky();
    draw_backdrop();
    draw_side(0);
    draw_side(1);
    draw_ground();
    draw_objects();
    draw_hood();
    return finish();
  }

 private:
  struct Lot {
    int64_t end;          // depth
    Class behind, front;  // what rises from the ground, and what stands before it: kWall, kFence, kTerrain, or the same
    Colour colour, front_colour;
    int64_t height, front_height;
    uint32_t key;
  };

  // --- drawing numbers ---

  int64_t between(int64_t low, int64_t high) { return low + random_.below(high - low + 1); }
  bool one_in(int64_t n) { return random_.below(n) == 0; }
  bool percent(int64_t share) { return random_.below(100) < share; }

  Colour vary(Colour c, int64_t common, int64_t each) {
    const int64_t shift = between(-common, common);
    const int64_t r = between(-each, each), g = between(-each, each), b = between(-each, each);
    return {c.r + shift + r, c.g + shift + g, c.b + shift + b};
  }

  template <size_t N>
  Colour pick(const Colour (&choices)[N], int64_t common, int64_t each) {
    const Colour& choice = choices[random_.below(N)];
    return vary(choice, common, each);
  }

  Colour building_colour() {
    constexpr Colour kChoices[] = {{150, 135, 115}, {125, 120, 115}, {165, 150, 125},
                                   {130, 95, 80},   {105, 100, 100}, {180, 172, 160}};
    return pick(kChoices, 18, 8);
  }
  Colour wall_colour() {
    constexpr Colour kChoices[] = {{135, 130, 122}, {120, 105, 92}, {150, 142, 130}};
    return pick(kChoices, 20, 8);
  }
  Colour leaf_colour() { return vary({62, 88, 48}, 18, 12); }
  Colour grass_colour() { return vary({98, 112, 62}, 18, 12); }
  Colour cloth_colour() {
    constexpr Colour kChoices[] = {{45, 45, 55}, {60, 70, 110}, {120, 50, 50}, {90, 85, 80}, {150, 140, 130}, {40, 60, 45}};
    return pick(kChoices, 20, 12);
  }
  Colour paint_colour() {
    constexpr Colour kChoices[] = {{30, 30, 34},    {165, 168, 172}, {100, 104, 110},
                                   {205, 205, 205}, {120, 25, 28},   {35, 50, 105}};
    return pick(kChoices, 14, 8);
  }

  // --- pixels ---

  void put(int64_t x, int64_t y, Class cls, const Colour& colour) {
    if (x < 0 || y < 0 || x >= W_ || y >= H_) return;
    image_[y * W_ + x] = colour;
    label_[y * W_ + x] = cls;
  }

  // Corners inclusive; the lower edge is darker by `shade`.
  void rectangle(int64_t left, int64_t top, int64_t right, int64_t bottom, Class cls, const Colour& colour, int64_t texture = 4,
                 int64_t shade = 0) {
    const int64_t rows = std::max<int64_t>(bottom - top, 1);
    for (int64_t y = std::max<int64_t>(top, 0); y <= std::min(bottom, H_ - 1); ++y)
      for (int64_t x = std::max<int64_t>(left, 0); x <= std::min(right, W_ - 1); ++x)
        put(x, y, cls, colour + (grain(x, y, key_, texture) - shade * (y - top) / rows));
  }

  // `ragged`, in 256ths of the radius, roughens the edge.
  void ellipse(int64_t cx, int64_t cy, int64_t rx, int64_t ry, Class cls, const Colour& colour, int64_t texture = 4,
               int64_t ragged = 0) {
    rx = std::max<int64_t>(rx, 1);
    ry = std::max<int64_t>(ry, 1);
    for (int64_t y = std::max<int64_t>(cy - ry, 0); y <= std::min(cy + ry, H_ - 1); ++y) {
      for (int64_t x = std::max<int64_t>(cx - rx, 0); x <= std::min(cx + rx, W_ - 1); ++x) {
        const int64_t u = (x - cx) * 256 / rx, v = (y - cy) * 256 / ry;
        const int64_t reach = 256 - (ragged > 0 ? ragged / 2 + grain(x / 2, y / 2, key_ + 7, ragged / 2) : 0);
        if (u * u + v * v <= reach * reach) put(x, y, cls, colour + (grain(x, y, key_, texture) - v * 10 / 256));
      }
    }
  }

  // --- the street ---

  void draw_sky() {
    constexpr Colour kChoices[] = {{178, 196, 216}, {208, 212, 216}, {222, 222, 220}, {160, 185, 214}};
    const Colour colour = pick(kChoices, 14, 5);
    for (int64_t y = 0; y < H_; ++y)
      for (int64_t x = 0; x < W_; ++x) {
        const int64_t cloud = grain(x * 12 / W_, y * 24 / H_, key_ + 1, 5);
        put(x, y, kSky, colour + (y * 26 / std::max<int64_t>(horizon_, 1) + cloud - 10));
      }
  }

  // What closes the street: a low line of trees or houses around the vanishing point.
  void draw_backdrop() {
    const Class cls = percent(60) ? kVegetation : kBuilding;
    const Colour colour = (cls == kVegetation ? leaf_colour() : building_colour()) + 22;
    const int64_t height = std::max<int64_t>(H_ * between(4, 12) / 100, 2);
    for (int64_t x = 0; x < W_; ++x) {
      const int64_t top =
          horizon_ - height -
          (cls == kVegetation ? grain(x / 3, 0, key_ + 2, height / 3) : grain(x * 20 / W_, 0, key_ + 2, height / 3));
      for (int64_t y = top; y <= horizon_ + 2; ++y) put(x, y, cls, colour + grain(x, y, key_, 7));
    }
  }

  Lot draw_lot(int64_t start) {
    Lot lot{};
    lot.end = start + between(9000, 26000);
    lot.behind = percent(60) ? kBuilding : kVegetation;
    lot.colour = lot.behind == kBuilding ? building_colour() : leaf_colour();
    lot.height = lot.behind == kBuilding ? between(10000, 26000) : between(6500, 16000);
    lot.front = lot.behind;
    lot.key = random_.next();
    const int64_t kind = random_.below(100);
    if (kind < 10) {
      lot.front = kWall;
      lot.front_colour = wall_colour();
      lot.front_height = between(1300, 2600);
    } else if (kind < 24) {
      lot.front = kFence;
      lot.front_colour = vary({95, 98, 90}, 25, 10);
      lot.front_height = between(1000, 2000);
    } else if (kind < 48) {
      lot.front = kTerrain;
      lot.front_colour = grass_colour();
    }
    return lot;
  }

  Colour facade(const Lot& lot, int64_t depth, int64_t up, int64_t x, int64_t y) const {
    const int64_t storey = floor_mod(up, 3200), bay = floor_mod(depth, 2600 + static_cast<int64_t>(lot.key % 900));
    const int64_t texture = grain(x, y, lot.key, 6);
    if (up > 900 && storey > 1000 && storey < 2500 && bay > 800 && bay < 2000) {
      const int64_t lit = grain(up / 3200, depth / 3000, lot.key, 22);
      return Colour{66, 74, 84} + (lit + texture);
    }
    if (up < 3200 && lot.key % 3 == 0) return lot.colour + (texture - 22);
    return lot.colour + (texture - (storey < 200 ? 14 : 0));
  }

  static Colour foliage(const Colour& colour, int64_t x, int64_t y, uint32_t key) {
    return colour + (grain(x / 4, y / 4, key, 16) + grain(x, y, key + 3, 12));
  }

  // Buildings, trees, walls, fences and grass along one side of the street, column by column.
  void draw_side(int side) {
    const int64_t lateral = half_road_ + sidewalk_[side];
    std::vector<Lot> lots;
    for (int64_t depth = 3000; depth < kFarthest; depth = lots.back().end) lots.push_back(draw_lot(depth));

    for (int64_t away = 1;; ++away) {
      const int64_t x = side == 0 ? vanish_ - away : vanish_ + away;
      if (x < 0 || x >= W_) break;
      const int64_t depth = focal_ * lateral / away;
      if (depth > kFarthest) continue;
      const auto found = std::find_if(lots.begin(), lots.end(), [&](const Lot& l) { return depth < l.end; });
      const Lot& lot = found == lots.end() ? lots.back() : *found;

      const auto pixels = [&](int64_t length) { return length * away / lateral; };
      const int64_t base = horizon_ + pixels(kCamera);
      int64_t height = lot.height;
      if (lot.behind == kVegetation) height += grain(depth / 1500, 0, lot.key, 1500) + grain(depth / 400, 1, lot.key, 500);
      for (int64_t y = std::max<int64_t>(base - pixels(height), 0); y <= std::min(base, H_ - 1); ++y) {
        const int64_t up = (base - y) * lateral / away;
        put(x, y, lot.behind, lot.behind == kBuilding ? facade(lot, depth, up, x, y) : foliage(lot.colour, x, y, lot.key));
      }
      draw_front(lot, depth, base, pixels(lot.front_height), x);
    }
  }

  void draw_front(const Lot& lot, int64_t depth, int64_t base, int64_t rows, int64_t x) {
    if (lot.front == kTerrain) {
      const int64_t strip = (base - horizon_) * 3 / 5;
      for (int64_t y = base - strip; y <= base; ++y)
        put(x, y, kTerrain, lot.front_colour + (grain(x, y, lot.key, 13) + grain(x / 5, y / 3, lot.key, 8)));
    } else if (lot.front == kWall) {
      for (int64_t y = base - rows; y <= base; ++y) {
        const bool joint = floor_mod((base - y) * 6 / std::max<int64_t>(rows, 1), 3) == 0;
        put(x, y, kWall, lot.front_colour + (grain(x, y, lot.key, 6) - (joint ? 9 : 0)));
      }
    } else if (lot.front == kFence) {
      const bool bar = floor_mod(depth, 700) < 330;
      for (int64_t y = base - rows; y <= base; ++y) {
        const bool rail = y - (base - rows) < std::max<int64_t>(rows / 8, 1);
        const int64_t at = y * W_ + x;
        if (y < 0 || y >= H_) continue;
        const Colour through = image_[at];
        const Colour mixed{(through.r + lot.front_colour.r) / 2, (through.g + lot.front_colour.g) / 2,
                           (through.b + lot.front_colour.b) / 2};
        put(x, y, kFence, (bar || rail ? lot.front_colour : mixed) + grain(x, y, lot.key, 6));
      }
    }
  }

  void draw_ground() {
    const Colour road = vary({104, 103, 104}, 16, 4), pavement = vary({128, 122, 117}, 16, 5);
    const Colour paint = vary({188, 188, 182}, 18, 4);
    const int64_t lane = between(0, 2) - 1;  // where the marking lies, in thirds of half the road
    const bool crossing = one_in(6);
    const int64_t crossing_depth = between(9000, 16000);
    const int64_t shadow_key = static_cast<int64_t>(random_.next());
    for (int64_t y = horizon_ + 1; y < H_; ++y) {
      const int64_t ground = y - horizon_, depth = focal_ * kCamera / ground;
      for (int64_t x = 0; x < W_; ++x) {
        const int64_t lateral = (x - vanish_) * kCamera / ground;
        const int64_t across = std::abs(lateral);
        const int side = lateral < 0 ? 0 : 1;
        if (across <= half_road_) {
          const int64_t from_line = std::abs(lateral - lane * half_road_ / 3);
          const bool dashed = from_line < 90 && floor_mod(depth, 9000) < 4500;
          const bool edge = std::abs(across - (half_road_ - 400)) < 70;
          const bool zebra = crossing && std::abs(depth - crossing_depth) < 1700 && floor_mod(lateral, 1000) < 500;
          const int64_t wear = grain(lateral / 900, depth / 5000, key_ + 5, 5) + grain(x, y, key_ + 6, 5);
          put(x, y, kRoad, (dashed || edge || zebra ? paint : road) + wear);
        } else if (across <= half_road_ + sidewalk_[side]) {
          const bool curb = across < half_road_ + 160;
          const bool slab = floor_mod(lateral, 750) < 60 || floor_mod(depth, 900) < 80;
          put(x, y, kSidewalk, pavement + (grain(x, y, key_ + 8, 6) + (curb ? 18 : 0) - (slab ? 12 : 0)));
        }
      }
    }
    if (shadow_key % 2 == 0) draw_shadow(shadow_key);
  }

  // The shadow of one side's houses on the ground.
  void draw_shadow(int64_t key) {
    const int64_t reach = between(1000, half_road_), sign = key % 4 == 0 ? 1 : -1;
    for (int64_t y = horizon_ + 1; y < H_; ++y) {
      for (int64_t x = 0; x < W_; ++x) {
        const int64_t lateral = sign * (x - vanish_) * kCamera / (y - horizon_);
        if (lateral < half_road_ - reach || lateral > half_road_ + sidewalk_[sign > 0 ? 1 : 0]) continue;
        Colour& c = image_[y * W_ + x];
        c = {c.r * 7 / 10, c.g * 7 / 10, c.b * 3 / 4};
      }
    }
  }

  // --- what stands on the street ---

  struct Thing {
    int64_t depth;
    int64_t lateral;
    int kind;
  };
  enum Kind {
    kTreeThing,
    kPoleThing,
    kCarThing,
    kTruckThing,
    kBusThing,
    kTrainThing,
    kPersonThing,
    kCyclistThing,
    kMotorcyclistThing,
    kBicycleThing,
    kMotorcycleThing
  };

  int64_t on_sidewalk(int64_t from_curb_percent_low, int64_t from_curb_percent_high) {
    const int side = one_in(2) ? 0 : 1;
    const int64_t lateral = half_road_ + sidewalk_[side] * between(from_curb_percent_low, from_curb_percent_high) / 100;
    return side == 0 ? -lateral : lateral;
  }

  // Near depths are as likely as far ones on a scale of 1 / depth, between the two.
  int64_t draw_depth(int64_t near, int64_t far) {
    const int64_t inverse = between(1000000000 / far, 1000000000 / near);
    return 1000000000 / inverse;
  }

  void draw_objects() {
    std::vector<Thing> things;
    const auto add = [&](int kind, int64_t lateral, int64_t depth) { things.push_back({depth, lateral, kind}); };
    const auto add_many = [&](int kind, int64_t low, int64_t high, int64_t percent_low, int64_t percent_high, int64_t near,
                              int64_t far) {
      for (int64_t n = between(low, high); n > 0; --n) {
        const int64_t lateral = on_sidewalk(percent_low, percent_high);
        add(kind, lateral, draw_depth(near, far));
      }
    };
    add_many(kTreeThing, 0, 2, 55, 120, 9000, 45000);
    add_many(kPoleThing, 4, 9, 5, 30, 5000, 30000);
    add_many(kPersonThing, 0, percent(30) ? 12 : 5, 10, 85, 5500, 22000);
    if (percent(55)) add_many(kBicycleThing, 1, 2, 40, 90, 6000, 20000);
    if (percent(14)) add_many(kMotorcycleThing, 1, 1, 8, 50, 6000, 20000);
    for (int64_t n = between(1, 5); n > 0; --n) {
      const bool parked = percent(55);
      const int64_t sign = one_in(2) ? 1 : -1;
      const int64_t lateral = sign * (parked ? half_road_ - 900 : between(900, half_road_ - 1500));
      add(kCarThing, lateral, draw_depth(parked ? 7500 : 9000, 50000));
    }
    const auto add_rare = [&](int kind, int64_t share, int64_t near) {
      if (!percent(share)) return;
      const int64_t sign = one_in(2) ? 1 : -1;
      const int64_t lateral = sign * between(1400, half_road_ - 1400);
      add(kind, lateral, draw_depth(near, 45000));
    };
    add_rare(kTruckThing, 7, 13000);
    add_rare(kBusThing, 6, 15000);
    add_rare(kTrainThing, 5, 15000);
    add_rare(kCyclistThing, 17, 8500);
    add_rare(kMotorcyclistThing, 6, 8500);
    std::stable_sort(things.begin(), things.end(), [](const Thing& a, const Thing& b) { return a.depth > b.depth; });
    for (const Thing& thing : things) draw_thing(thing);
  }

  void draw_thing(const Thing& thing) {
    ground_ = std::max<int64_t>(focal_ * kCamera / thing.depth, 1);
    foot_ = horizon_ + ground_;
    const int64_t x = vanish_ + thing.lateral * ground_ / kCamera;
    switch (static_cast<Kind>(thing.kind)) {
      case kTreeThing:
        return draw_tree(x);
      case kPoleThing:
        return draw_pole(x, thing.lateral < 0 ? 1 : -1);
      case kCarThing:
        return draw_car(x);
      case kTruckThing:
        return draw_truck(x);
      case kBusThing:
        return draw_coach(x, kBus);
      case kTrainThing:
        return draw_coach(x, kTrain);
      case kPersonThing:
        return draw_person(x);
      case kCyclistThing:
        return draw_rider(x, kBicycle);
      case kMotorcyclistThing:
        return draw_rider(x, kMotorcycle);
      case kBicycleThing:
        return draw_two_wheeler(x, kBicycle);
      case kMotorcycleThing:
        return draw_two_wheeler(x, kMotorcycle);
    }
  }

  // Pixels that a length measures at the current thing.
  int64_t px(int64_t length) const { return (length * ground_ + kCamera / 2) / kCamera; }

  void draw_tree(int64_t x) {
    const Colour leaves = leaf_colour();
    const int64_t crown = between(1400, 2600), centre = between(3600, 5200);
    rectangle(x - px(130), foot_ - px(centre), x + px(130), foot_, kVegetation, vary({78, 66, 54}, 12, 5), 8);
    const uint32_t key = random_.next();
    const int64_t rx = std::max<int64_t>(px(crown), 2), ry = std::max<int64_t>(px(crown * 5 / 6), 2), cy = foot_ - px(centre);
    for (int64_t y = cy - ry; y <= cy + ry; ++y)
      for (int64_t at = x - rx; at <= x + rx; ++at) {
        const int64_t u = (at - x) * 256 / rx, v = (y - cy) * 256 / ry;
        const int64_t reach = 222 + grain(at * 3 / rx, y * 3 / ry, key, 34);
        if (u * u + v * v <= reach * reach) put(at, y, kVegetation, foliage(leaves + (-v * 14 / 256), at, y, key));
      }
  }

  void draw_pole(int64_t x, int64_t inward) {
    const Colour metal = vary({92, 94, 94}, 24, 6);
    const int64_t height = between(3000, 7000), width = std::clamp<int64_t>(px(170), 1, std::max<int64_t>(W_ / 85, 1));
    const int64_t top = foot_ - px(height);
    rectangle(x, top, x + width - 1, foot_, kPole, metal, 3);
    const int64_t kind = random_.below(100);
    if (kind < 22) {
      draw_light(x + width / 2, std::max(top, foot_ - px(3300)));
    } else if (kind < 62) {
      draw_sign(x + width / 2, std::max(top, foot_ - px(between(2300, 3000))));
    } else if (height > 4500) {
      const int64_t reach = px(between(900, 2000));  // a lamp's arm
      rectangle(std::min(x, x + inward * reach), top, std::max(x, x + inward * reach), top + width - 1, kPole, metal, 3);
    }
  }

  void draw_light(int64_t x, int64_t top) {
    const int64_t half = std::max<int64_t>(px(210), 1), rows = std::max<int64_t>(px(1050), 3);
    rectangle(x - half, top, x + half, top + rows, kTrafficLight, vary({34, 36, 34}, 10, 3), 3);
    constexpr Colour kLamps[] = {{228, 60, 44}, {226, 168, 40}, {60, 205, 120}};
    const int64_t lit = random_.below(3);
    ellipse(x, top + rows * (2 * lit + 1) / 6, std::max<int64_t>(half * 2 / 3, 1), std::max<int64_t>(rows / 8, 1),
            kTrafficLight, kLamps[lit], 3);
  }

  void draw_sign(int64_t x, int64_t top) {
    constexpr Colour kFaces[] = {{206, 44, 42}, {32, 78, 168}, {222, 190, 42}, {206, 206, 202}};
    const Colour face = pick(kFaces, 16, 6);
    const int64_t radius = std::max<int64_t>(px(between(330, 520)), 1), cy = top + radius;
    const Colour inner = face.r > 190 && face.g > 150 ? Colour{60, 60, 62} : Colour{214, 212, 208};
    switch (random_.below(3)) {
      case 0:
        ellipse(x, cy, radius, radius, kTrafficSign, face);
        ellipse(x, cy, radius / 2, radius / 2, kTrafficSign, inner);
        break;
      case 1:
        rectangle(x - radius, cy - radius, x + radius, cy + radius, kTrafficSign, face);
        rectangle(x - radius / 2, cy - radius / 3, x + radius / 2, cy + radius / 3, kTrafficSign, inner);
        break;
      default:
        for (int64_t row = 0; row <= 2 * radius; ++row) {
          const int64_t half = row / 2;
          rectangle(x - half, cy - radius + row, x + half, cy - radius + row, kTrafficSign, face);
        }
    }
  }

  void draw_wheels(int64_t x, int64_t half, int64_t wheel, Class cls) {
    for (const int64_t sign : {-1, 1}) {
      const int64_t at = x + sign * (half - wheel / 2);
      rectangle(at - wheel / 2, foot_ - wheel, at + wheel / 2, foot_, cls, {28, 28, 30}, 4);
    }
  }

  // Seen from behind or from the front.
  void draw_car(int64_t x) {
    const Colour paint = paint_colour();
    const bool rear = percent(60);
    const int64_t half = std::max<int64_t>(px(between(850, 960)), 1), height = px(between(1400, 1750)),
                  waist = height * 58 / 100;
    draw_wheels(x, half, px(300), kCar);
    rectangle(x - half, foot_ - waist, x + half, foot_ - px(220), kCar, paint, 4, 26);
    for (int64_t row = waist; row <= height; ++row) {  // the cabin narrows towards the roof
      const int64_t narrow = half - half * (row - waist) / std::max<int64_t>(3 * (height - waist), 1);
      const bool glass = row < height - std::max<int64_t>(height / 12, 1);
      const int64_t y = foot_ - row;
      rectangle(x - narrow, y, x + narrow, y, kCar, paint);
      if (glass) rectangle(x - narrow * 5 / 6, y, x + narrow * 5 / 6, y, kCar, {58, 68, 78}, 8);
    }
    const Colour lamp = rear ? Colour{168, 32, 30} : Colour{226, 226, 214};
    const int64_t size = std::max<int64_t>(half / 5, 1), y = foot_ - waist + size / 2;
    rectangle(x - half, y, x - half + size, y + size, kCar, lamp);
    rectangle(x + half - size, y, x + half, y + size, kCar, lamp);
  }

  void draw_truck(int64_t x) {
    const Colour cabin = paint_colour(), box = pick({{196, 196, 192}, {92, 112, 150}, {160, 150, 130}}, 18, 8);
    const int64_t half = px(1250), height = px(between(3100, 3800));
    draw_wheels(x, half, px(500), kTruck);
    rectangle(x - half, foot_ - height, x + half, foot_ - px(900), kTruck, box, 5, 14);
    rectangle(x - half, foot_ - px(1000), x + half, foot_ - px(420), kTruck, cabin, 5, 20);
    rectangle(x - half / 16, foot_ - height, x + half / 16, foot_ - px(1000), kTruck, box + -30, 4);
  }

  void draw_coach(int64_t x, Class cls) {
    const Colour paint = cls == kBus ? pick({{204, 168, 48}, {176, 44, 40}, {200, 200, 196}}, 14, 8)
                                     : pick({{178, 36, 34}, {210, 208, 200}, {48, 98, 76}}, 14, 8);
    const int64_t half = px(1270), height = px(cls == kBus ? 3000 : 3500);
    if (cls == kBus) draw_wheels(x, half, px(480), cls);
    rectangle(x - half, foot_ - height, x + half, foot_ - px(cls == kBus ? 350 : 150), cls, paint, 4, 18);
    rectangle(x - half * 7 / 8, foot_ - height * 9 / 10, x + half * 7 / 8, foot_ - height / 2, cls, {52, 60, 70}, 8);
    const int64_t lamp = std::max<int64_t>(half / 8, 1);
    for (const int64_t sign : {-1, 1})
      rectangle(x + sign * half * 3 / 4 - lamp, foot_ - height / 4, x + sign * half * 3 / 4 + lamp, foot_ - height / 4 + lamp,
                cls, {224, 222, 206});
    if (cls == kTrain) rectangle(x - half, foot_ - height / 3, x + half, foot_ - height / 3 + lamp / 2, cls, {226, 224, 220});
  }

  // Head and trunk above `hip`, a height over the ground.
  void draw_upper_body(int64_t x, int64_t hip, int64_t height, Class cls, const Colour& cloth, bool helmet) {
    const int64_t head = std::max<int64_t>(px(125), 1), shoulders = foot_ - px(height) + 2 * head;
    rectangle(x - px(230), shoulders, x + px(230), foot_ - px(hip), cls, cloth, 6, 12);
    const Colour skin = pick({{196, 156, 132}, {150, 108, 84}, {104, 74, 60}}, 12, 5);
    ellipse(x, foot_ - px(height) + head, head, head, cls, skin, 3);
    const Colour top = helmet ? paint_colour() : Colour{54, 44, 38};
    ellipse(x, foot_ - px(height) + head / 2, head, std::max<int64_t>(head * 2 / 3, 1), cls, top, 3);
  }

  void draw_person(int64_t x) {
    const Colour cloth = cloth_colour(), trousers = cloth_colour() + -20;
    const int64_t height = between(1450, 1900), stride = between(20, 190);
    rectangle(x - px(110 + stride), foot_ - px(height / 2), x - px(stride / 2), foot_, kPerson, trousers, 5);
    rectangle(x + px(stride / 2), foot_ - px(height / 2), x + px(110 + stride), foot_ - px(stride / 3), kPerson, trousers, 5);
    draw_upper_body(x, height / 2, height, kPerson, cloth, false);
  }

  // Seen from the side.
  void draw_two_wheeler(int64_t x, Class cls) {
    const bool bicycle = cls == kBicycle;
    const Colour frame = bicycle ? paint_colour() : vary({60, 60, 66}, 24, 10);
    const int64_t wheel = std::max<int64_t>(px(bicycle ? 340 : 310), 1), base = px(bicycle ? 520 : 640);
    for (const int64_t sign : {-1, 1}) {
      ellipse(x + sign * base, foot_ - wheel, wheel, wheel, cls, {36, 36, 38}, 5);
      ellipse(x + sign * base, foot_ - wheel, wheel * 2 / 3, wheel * 2 / 3, cls,
              bicycle ? Colour{96, 96, 94} : Colour{80, 80, 84}, 14);
    }
    const int64_t thick = bicycle ? std::max<int64_t>(px(45), 1) : px(420);
    rectangle(x - base, foot_ - wheel - thick, x + base, foot_ - wheel, cls, frame, 6);
    const int64_t bar = std::max<int64_t>(px(bicycle ? 40 : 110), 1);
    rectangle(x + base - bar, foot_ - px(1050), x + base, foot_ - wheel, cls, frame, 5);
    rectangle(x - base / 2 - bar, foot_ - px(900), x - base / 2 + bar, foot_ - wheel, cls, {44, 42, 42}, 5);
  }

  void draw_rider(int64_t x, Class vehicle) {
    draw_two_wheeler(x, vehicle);
    const Colour cloth = cloth_colour();
    const int64_t seat = vehicle == kBicycle ? 900 : 780, height = between(1600, 1850);
    rectangle(x - px(240), foot_ - px(seat), x + px(60), foot_ - px(350), kRider, cloth + -25, 5);
    draw_upper_body(x - px(90), seat, height, kRider, cloth, vehicle == kMotorcycle || percent(55));
  }

  // The ego vehicle's hood at the bottom, and the rim that rectification leaves.
  void draw_hood() {
    const int64_t rise = H_ * between(4, 7) / 100;
    const Colour paint = vary({48, 50, 54}, 22, 6);
    for (int64_t x = 0; x < W_; ++x) {
      const int64_t u = (2 * x - W_) * 256 / W_, rows = rise * (65536 - u * u) / 65536;
      for (int64_t y = H_ - rows; y < H_; ++y) {
        image_[y * W_ + x] = paint + ((H_ - y) * 40 / std::max<int64_t>(rise, 1) + grain(x, y, key_, 3));
        label_[y * W_ + x] = static_cast<uint8_t>(kIgnore);
      }
    }
    const int64_t rim = std::max<int64_t>(H_ / 170, 1);
    for (int64_t y = 0; y < H_; ++y)
      for (int64_t x = 0; x < W_; ++x)
        if (x < rim || y < rim || x >= W_ - rim || y >= H_ - rim) label_[y * W_ + x] = static_cast<uint8_t>(kIgnore);
  }

  // Light of the day, haze towards the horizon, and the sensor's noise.
  Sample finish() {
    const int64_t gain = between(170, 300), haze = between(0, 40);
    const Colour tint{256 + between(-16, 16), 256 + between(-8, 8), 256 + between(-18, 18)};
    const int64_t noise = between(4, 11);
    Sample sample;
    sample.image_HWC = at::empty({H_, W_, 3}, at::TensorOptions().dtype(at::kByte));
    sample.label_HW = at::empty({H_, W_}, at::TensorOptions().dtype(at::kByte));
    std::copy(label_.begin(), label_.end(), sample.label_HW.data_ptr<uint8_t>());
    uint8_t* out = sample.image_HWC.data_ptr<uint8_t>();
    for (int64_t y = 0; y < H_; ++y) {
      const int64_t fog = haze - std::min(haze, std::abs(y - horizon_) * 160 / H_);
      for (int64_t x = 0; x < W_; ++x) {
        const Colour& c = image_[y * W_ + x];
        const int64_t channels[] = {c.r * tint.r, c.g * tint.g, c.b * tint.b};
        for (int64_t k = 0; k < 3; ++k) {
          const int64_t clear = channels[k] / 256 * gain / 256;
          const int64_t value =
              clear + (200 - clear) * fog / 256 + grain(x, 3 * y + k, key_ + 9, noise) + grain(x, 3 * y + k, key_ + 10, noise);
          *out++ = static_cast<uint8_t>(std::clamp<int64_t>(value, 0, 255));
        }
      }
    }
    return sample;
  }

  Random random_;
  const int64_t H_, W_;
  std::vector<Colour> image_;
  std::vector<uint8_t> label_;
  int64_t horizon_ = 0, vanish_ = 0, focal_ = 0;  // pixels
  int64_t half_road_ = 0;                         // of the carriageway
  std::array<int64_t, 2> sidewalk_{};             // left, right
  int64_t ground_ = 1, foot_ = 0;                 // of the thing being drawn
  uint32_t key_ = 0;
};

class SyntheticDataset final : public Dataset {
 public:
  explicit SyntheticDataset(const Config& config)
      : seed_(config.seed), H_(config.data.size.at(0)), W_(config.data.size.at(1)), truth_(reads_unlabeled_labels(config)) {
    const DataConfig& data = config.data;
    const auto fail = [&](const std::string& problem, const std::string& hint) {
      throw Error(ErrorKind::kConfig, problem, config.file, hint);
    };
    if (!data.classes.empty() && data.classes != "synthetic" && data.classes != "cityscapes")
      fail("data.classes: synthetic scenes have their own classes, not \"" + data.classes + "\"", "leave it out");
    if (!data.unlabeled.empty() || !data.val.empty() || (!data.labeled.empty() && !is_fraction(data.labeled)))
      fail("synthetic scenes are drawn, not read from lists", "set data.counts, and data.labeled to a fraction or not at all");
    if (H_ < kMinSide || W_ < kMinSide) fail(str("data.size must be at least ", kMinSide, " x ", kMinSide), "set it as [H, W]");
    if (data.counts.size() != 3 || std::any_of(data.counts.begin(), data.counts.end(), [](int64_t n) { return n < 0; }))
      fail("data.counts must be three numbers >= 0", "labelled, unlabelled and validation scenes");

    classes_ = load_classes("synthetic", data.ignore_index);
    const int64_t labelled = data.counts[0], train = labelled + data.counts[1];
    std::vector<bool> is_labelled(train);
    if (data.labeled.empty()) {
      std::fill_n(is_labelled.begin(), labelled, true);
    } else {
      for (const int64_t index : nested_split(labelled, data.labeled, seed_)) is_labelled[index] = true;
    }
    for (int64_t i = 0; i < train; ++i) scenes(is_labelled[i] ? Split::kLabeled : Split::kUnlabeled).push_back(i);
    for (int64_t i = 0; i < data.counts[2]; ++i) scenes(Split::kVal).push_back(i);
  }

  int64_t size(Split split) const override { return static_cast<int64_t>(scenes(split).size()); }

  Sample get(Split split, int64_t index) const override {
    Sample sample = draw_scene(seed_, split == Split::kVal, scenes(split).at(index), H_, W_);
    sample.id = id(split, index);
    if (split == Split::kUnlabeled && !truth_) sample.label_HW = Tensor();
    return sample;
  }

  Tensor label(Split split, int64_t index) const override {
    TORCH_CHECK(split != Split::kUnlabeled || truth_, "unlabelled images have no label");
    return draw_scene(seed_, split == Split::kVal, scenes(split).at(index), H_, W_).label_HW;
  }

  std::string id(Split split, int64_t index) const override {
    return str("synthetic/", split == Split::kVal ? "val/" : "train/", scenes(split).at(index), ".png");
  }

  const ClassSet& classes() const override { return classes_; }

 private:
  std::vector<int64_t>& scenes(Split split) { return scenes_[static_cast<size_t>(split)]; }
  const std::vector<int64_t>& scenes(Split split) const { return scenes_[static_cast<size_t>(split)]; }

  uint64_t seed_;
  int64_t H_, W_;
  bool truth_;  // labels of unlabelled scenes are handed out
  ClassSet classes_;
  std::array<std::vector<int64_t>, 3> scenes_;  // of each split: indices into the train or the val stream
};

const bool kRegistered = datasets().add(
    "synthetic", [](const Config& config) -> std::unique_ptr<Dataset> { return std::make_unique<SyntheticDataset>(config); });

}  // namespace

Sample draw_scene(uint64_t seed, bool val, int64_t index, int64_t H, int64_t W) {
  return Scene(seed, static_cast<uint64_t>(index) + (val ? kValStream : 0), H, W).draw();
}

}  // namespace semiseg
