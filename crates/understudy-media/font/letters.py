"""Builds the letters of contact sheets: Noto Sans, and the common characters of Noto Sans CJK.

    pip install fonttools cffsubr
    pip download --no-deps fontpkg-noto-sans==2.15 cvttf-NotoSansCJK-Regular==1.0
    python letters.py fontpkg_noto_sans-*.whl cvttf_NotoSansCJK_Regular-*.whl OUT.otf

Latin, Greek, Cyrillic and signs are Noto Sans's; kana, the commoner half of the Chinese characters of GB 2312, Big5 and
JIS X 0208, and the Hangul syllables of KS X 1001 are Noto Sans CJK's. Nothing that shapes text is kept.
"""

import io
import sys
import zipfile

import cffsubr
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.ttLib import TTFont
from fontTools.varLib.instancer import instantiateVariableFont


def packed(wheel, name):
    archive = zipfile.ZipFile(wheel)
    path = next(path for path in archive.namelist() if path.endswith(name))
    return TTFont(io.BytesIO(archive.read(path)))


def standard(codec, first, last):
    """Characters of a two-byte encoding from one code to another."""
    for code in range(first, last + 1):
        try:
            yield ord(code.to_bytes(2, "big").decode(codec))
        except UnicodeDecodeError:
            pass


noto = instantiateVariableFont(packed(sys.argv[1], "/NotoSans[wdth,wght].ttf"), {"wght": 400, "wdth": 100})
cjk = packed(sys.argv[2], "/NotoSansCJKtc-Regular.otf")
letters = {*range(0x20, 0x530), *range(0x1E00, 0x2300)}
common = {
    *letters,
    *range(0x3000, 0x3100),
    *range(0xFF00, 0xFFF0),
    *standard("gb2312", 0xB0A1, 0xD7FE),
    *standard("big5", 0xA440, 0xC67E),
    *standard("euc_jp", 0xB0A1, 0xCFFE),
    *standard("euc_kr", 0xB0A1, 0xC8FE),
}
order, widths, shapes, characters = [], {}, {}, {}


def take(font, code, source, name):
    glyphs = font.getGlyphSet()
    glyph = glyphs[source]
    pen = T2CharStringPen(round(glyph.width), glyphs, roundTolerance=0.5)
    glyph.draw(pen)
    order.append(name)
    widths[name] = (round(glyph.width), 0)
    shapes[name] = pen.getCharString()
    if code is not None:
        characters[code] = name


take(noto, None, ".notdef", ".notdef")
for font, wanted in [(noto, letters), (cjk, common)]:
    for code, source in sorted(font.getBestCmap().items()):
        if code in wanted and code not in characters:
            take(font, code, source, f"u{code:04X}")

builder = FontBuilder(noto["head"].unitsPerEm, isTTF=False)
builder.setupGlyphOrder(order)
builder.setupCharacterMap(characters)
copyright = f"{noto['name'].getDebugName(0)}; {cjk['name'].getDebugName(0)}"
builder.setupCFF("UnderstudySheet", {"FullName": "Understudy Sheet"}, shapes, {})
builder.setupHorizontalMetrics(widths)
builder.setupHorizontalHeader(ascent=noto["hhea"].ascent, descent=noto["hhea"].descent)
builder.setupNameTable({
    "copyright": copyright,
    "familyName": "Understudy Sheet",
    "styleName": "Regular",
    "psName": "UnderstudySheet",
    "licenseDescription": noto["name"].getDebugName(13),
    "licenseInfoURL": "https://openfontlicense.org",
})
builder.setupOS2()
builder.setupPost(keepGlyphNames=False)
cffsubr.subroutinize(builder.font, keep_glyph_names=False)
builder.font.save(sys.argv[3])
