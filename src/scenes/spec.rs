//! What a scene shows, in attributes: families of scenes, what sets members apart, and captions.

use super::random::Random;

pub(super) type Rgb = [u8; 3];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Ring,
    Cross,
    Heart,
    Diamond,
    Hexagon,
    Crescent,
}

const SHAPES: [(Shape, &str, &str); 10] = [
    (Shape::Circle, "circle", "circles"),
    (Shape::Square, "square", "squares"),
    (Shape::Triangle, "triangle", "triangles"),
    (Shape::Star, "star", "stars"),
    (Shape::Ring, "ring", "rings"),
    (Shape::Cross, "cross", "crosses"),
    (Shape::Heart, "heart", "hearts"),
    (Shape::Diamond, "diamond", "diamonds"),
    (Shape::Hexagon, "hexagon", "hexagons"),
    (Shape::Crescent, "crescent", "crescents"),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Color {
    pub name: &'static str,
    pub rgb: Rgb,
}

const fn color(name: &'static str, rgb: Rgb) -> Color {
    Color { name, rgb }
}

const COLORS: [Color; 15] = [
    color("red", [214, 48, 49]),
    color("orange", [240, 132, 38]),
    color("yellow", [246, 205, 62]),
    color("green", [60, 160, 82]),
    color("lime", [164, 210, 66]),
    color("teal", [28, 146, 146]),
    color("turquoise", [72, 206, 200]),
    color("blue", [46, 100, 214]),
    color("navy", [34, 46, 106]),
    color("purple", [128, 72, 184]),
    color("pink", [240, 128, 168]),
    color("brown", [132, 84, 52]),
    color("black", [36, 36, 42]),
    color("grey", [132, 138, 148]),
    color("white", [248, 248, 244]),
];

/// A colour for grounds, and the one that it fades to or is patterned with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tint {
    pub name: &'static str,
    pub rgb: Rgb,
    pub partner: Rgb,
}

const fn tint(name: &'static str, rgb: Rgb, partner: Rgb) -> Tint {
    Tint { name, rgb, partner }
}

const TINTS: [Tint; 12] = [
    tint("pale blue", [196, 220, 242], [240, 247, 252]),
    tint("sky blue", [134, 190, 236], [210, 232, 250]),
    tint("cream", [250, 240, 214], [236, 214, 170]),
    tint("mint", [192, 232, 206], [238, 250, 242]),
    tint("lavender", [214, 204, 240], [242, 238, 252]),
    tint("rose", [246, 206, 214], [253, 240, 242]),
    tint("sand", [222, 202, 160], [244, 232, 204]),
    tint("light grey", [214, 216, 220], [242, 243, 245]),
    tint("peach", [250, 210, 176], [254, 238, 222]),
    tint("dark blue", [30, 44, 92], [66, 88, 150]),
    tint("dark green", [26, 70, 54], [62, 116, 92]),
    tint("charcoal", [52, 54, 62], [98, 102, 112]),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Surface {
    Plain,
    Faded,
    Striped,
    Dotted,
    Checked,
    Night,
    Day,
}

const SURFACES: [Surface; 10] = [
    Surface::Plain,
    Surface::Plain,
    Surface::Plain,
    Surface::Faded,
    Surface::Faded,
    Surface::Striped,
    Surface::Dotted,
    Surface::Checked,
    Surface::Night,
    Surface::Day,
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ground {
    pub surface: Surface,
    pub tint: Tint,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Size {
    Small,
    Ordinary,
    Large,
}

const SIZES: [Size; 4] = [Size::Small, Size::Ordinary, Size::Ordinary, Size::Large];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrangement {
    Alone,
    Row,
    Stack,
    Diagonal,
    Grid,
    Scattered,
    Around,
    Beside,
    Above,
    InFront,
}

const ARRANGEMENTS: [Arrangement; 10] = [
    Arrangement::Alone,
    Arrangement::Row,
    Arrangement::Stack,
    Arrangement::Diagonal,
    Arrangement::Grid,
    Arrangement::Scattered,
    Arrangement::Around,
    Arrangement::Beside,
    Arrangement::Above,
    Arrangement::InFront,
];

impl Arrangement {
    fn counts(self) -> &'static [usize] {
        match self {
            Arrangement::Row => &[2, 3, 4, 5],
            Arrangement::Stack => &[2, 3, 4],
            Arrangement::Diagonal => &[3, 4, 5],
            Arrangement::Grid => &[4, 6, 9],
            Arrangement::Scattered => &[3, 4, 5, 6, 7, 8],
            Arrangement::Around => &[3, 4, 6, 8],
            _ => &[1],
        }
    }

    fn has_second(self) -> bool {
        use Arrangement::{Above, Around, Beside, InFront};
        matches!(self, Around | Beside | Above | InFront)
    }
}

/// Width and height, in pixels.
const CANVASES: [(u32, u32); 5] = [(192, 144), (192, 128), (160, 160), (144, 176), (208, 144)];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Thing {
    pub shape: Shape,
    pub color: Color,
}

impl Thing {
    fn random(random: &mut Random) -> Thing {
        Thing { shape: random.pick(&SHAPES).0, color: random.pick(&COLORS) }
    }

    fn noun(&self, plural: bool) -> &'static str {
        let (_, one, many) = SHAPES[self.shape as usize];
        if plural { many } else { one }
    }
}

/// All that a scene shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Spec {
    pub canvas: (u32, u32),
    pub ground: Ground,
    pub arrangement: Arrangement,
    pub count: usize,
    pub size: Size,
    pub first: Thing,
    /// What the others are arranged around, beside, above or in front of; unused in a row and so on.
    pub second: Thing,
    /// Seeds what all members of a family share: stars in the sky, places of what is scattered.
    pub layout: u64,
    wording: usize,
}

impl Spec {
    /// The scene that a family's members are like.
    pub fn family(seed: u64, family: u64) -> Spec {
        let mut random = Random::of(&[seed, 11, family]);
        let arrangement = random.pick(&ARRANGEMENTS);
        let mut spec = Spec {
            canvas: random.pick(&CANVASES),
            ground: Ground { surface: random.pick(&SURFACES), tint: random.pick(&TINTS) },
            arrangement,
            count: random.pick(arrangement.counts()),
            size: random.pick(&SIZES),
            first: Thing::random(&mut random),
            second: Thing::random(&mut random),
            layout: random.next(),
            wording: random.below(WORDINGS),
        };
        spec.make_visible(&mut random);
        spec
    }

    /// The scene again with one thing changed, sometimes two, seldom three.
    pub fn member(mut self, random: &mut Random) -> Spec {
        self.change(random);
        if random.permille(350) {
            self.change(random);
        }
        if random.permille(80) {
            self.change(random);
        }
        if random.permille(150) {
            self.wording = random.below(WORDINGS);
        }
        self.make_visible(random);
        self
    }

    /// Changes one thing for another.
    fn change(&mut self, random: &mut Random) {
        let second = self.arrangement.has_second() && random.permille(400);
        let thing = if second { &mut self.second } else { &mut self.first };
        let set = matches!(self.ground.surface, Surface::Night | Surface::Day);
        let counts = self.arrangement.counts();
        match random.below(100) {
            ..32 => another(&mut thing.color, &COLORS, random),
            32..58 => {
                let shapes = SHAPES.map(|(shape, ..)| shape);
                another(&mut thing.shape, &shapes, random);
            }
            58..72 if !set => another(&mut self.ground.tint, &TINTS, random),
            58..82 => another(&mut self.ground.surface, &SURFACES, random),
            82..92 if counts.len() > 1 => another(&mut self.count, counts, random),
            _ => another(&mut self.size, &SIZES, random),
        }
    }

    /// Chooses other colours until shapes stand out from the ground and from each other.
    fn make_visible(&mut self, random: &mut Random) {
        let grounds = match self.ground.surface {
            Surface::Night => [[20, 24, 54], [48, 54, 102]],
            Surface::Day => [[150, 204, 246], [104, 168, 82]],
            _ => [self.ground.tint.rgb, self.ground.tint.partner],
        };
        let hidden = |color: Color| grounds.iter().any(|&ground| near(color.rgb, ground));
        while hidden(self.first.color) {
            self.first.color = random.pick(&COLORS);
        }
        let against = |second: Color, first: Color| match self.arrangement {
            Arrangement::InFront => near(second.rgb, first.rgb),
            _ => second == first,
        };
        while hidden(self.second.color) || against(self.second.color, self.first.color) {
            self.second.color = random.pick(&COLORS);
        }
    }

    /// The scene in an ordinary short sentence.
    pub fn caption(&self) -> String {
        let (phrase, ground) = (self.phrase(), self.ground.phrase());
        match self.wording {
            0 | 1 => format!("{phrase} {ground}"),
            2 => format!("{} {ground}.", capital(&phrase)),
            3 => format!("{}, {phrase}.", capital(&ground)),
            4 if self.count > 1 => format!("There are {phrase} {ground}."),
            4 => format!("There is {phrase} {ground}."),
            _ => format!("a picture of {phrase} {ground}"),
        }
    }

    fn phrase(&self) -> String {
        let size = match self.size {
            Size::Small => "small ",
            Size::Ordinary => "",
            Size::Large => "large ",
        };
        let firsts = format!("{size}{} {}", self.first.color.name, self.first.noun(self.count > 1));
        let firsts = match self.count {
            1 => with_article(&firsts),
            n => format!("{} {firsts}", NUMBERS[n]),
        };
        let second = format!("{} {}", self.second.color.name, self.second.noun(false));
        match self.arrangement {
            Arrangement::Alone => firsts,
            Arrangement::Row => format!("{firsts} in a row"),
            Arrangement::Stack => format!("{firsts} one above the other"),
            Arrangement::Diagonal => format!("{firsts} along a diagonal"),
            Arrangement::Grid => format!("{firsts} in a grid"),
            Arrangement::Scattered => format!("{firsts} scattered about"),
            Arrangement::Around => format!("{firsts} around a big {second}"),
            Arrangement::Beside => format!("{firsts} to the left of {}", with_article(&second)),
            Arrangement::Above => format!("{firsts} above {}", with_article(&second)),
            Arrangement::InFront => format!("{firsts} in front of a big {second}"),
        }
    }
}

const WORDINGS: usize = 6;
const NUMBERS: [&str; 10] =
    ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

impl Ground {
    fn phrase(&self) -> String {
        let tint = self.tint.name;
        match self.surface {
            Surface::Plain => format!("on a {tint} background"),
            Surface::Faded => format!("on a fading {tint} background"),
            Surface::Striped => format!("on a striped {tint} background"),
            Surface::Dotted => format!("on a dotted {tint} background"),
            Surface::Checked => format!("on a checkered {tint} background"),
            Surface::Night => "under a night sky".into(),
            Surface::Day => "in a sunny meadow".into(),
        }
    }
}

/// Puts one of the others in place.
fn another<T: Copy + PartialEq>(in_place: &mut T, of: &[T], random: &mut Random) {
    let old = *in_place;
    while *in_place == old {
        *in_place = random.pick(of);
    }
}

/// Whether a shape of one colour is hard to see on the other: like it, or as dark as a dark one.
fn near(a: Rgb, b: Rgb) -> bool {
    let distance: u32 = a.iter().zip(b).map(|(&a, b)| u32::from(a.abs_diff(b))).sum();
    let [light, other] = [a, b].map(|[r, g, b]| 3 * i32::from(r) + 6 * i32::from(g) + i32::from(b));
    distance < 130 || (light.min(other) < 1_050 && light.abs_diff(other) < 320)
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {noun}")
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}
