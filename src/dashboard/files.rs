//! The page's files, part of the binary: no build step, nothing fetched from elsewhere. uPlot's licence is served beside it.

pub struct File {
    pub path: &'static str,
    pub kind: &'static str,
    pub bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! file {
    ($path:literal, $name:literal, $kind:ident) => {
        File {
            path: $path,
            kind: $kind,
            bytes: include_bytes!(concat!("page/", $name)),
        }
    };
}

static FILES: [File; 16] = [
    file!("/", "index.html", HTML),
    file!("/page/style.css", "style.css", STYLE),
    file!("/page/icon.svg", "icon.svg", SVG),
    file!("/page/app.js", "app.js", SCRIPT),
    file!("/page/address.js", "address.js", SCRIPT),
    file!("/page/format.js", "format.js", SCRIPT),
    file!("/page/charts.js", "charts.js", SCRIPT),
    file!("/page/card.js", "card.js", SCRIPT),
    file!("/page/plot.js", "plot.js", SCRIPT),
    file!("/page/words.js", "words.js", SCRIPT),
    file!("/page/thin.js", "thin.js", SCRIPT),
    file!("/page/strip.js", "strip.js", SCRIPT),
    file!("/page/trouble.js", "trouble.js", SCRIPT),
    file!("/page/vendor/uPlot.esm.js", "vendor/uPlot.esm.js", SCRIPT),
    file!("/page/vendor/uPlot.min.css", "vendor/uPlot.min.css", STYLE),
    file!("/page/vendor/uPlot.LICENSE", "vendor/uPlot.LICENSE", TEXT),
];

pub fn find(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}
