//! Captions and masks beside pictures, as the world's trainers and editors leave them.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{encoded, put, waves};
use image::ImageFormat::{Jpeg, Png, WebP};
use understudy_media::{
    Caption, FileKind, FolderOptions, Image, Picture, SubjectFolder, WriteOptions, clip_masks,
};

fn sample() -> Image {
    waves(48, 32, 1, 8.0).frames.remove(0)
}

fn png() -> Vec<u8> {
    encoded(&sample(), Png)
}

fn white() -> Vec<u8> {
    encoded(&Image::filled(48, 32, [255; 3]), Png)
}

fn captions(folder: &Path) -> Vec<(String, Option<String>)> {
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let items = SubjectFolder::open(folder).unwrap().items;
    items.into_iter().map(|item| (name(&item.path), item.caption)).collect()
}

fn left_out(folder: &Path) -> String {
    let left_out = SubjectFolder::open(folder).unwrap().left_out;
    left_out.iter().map(|own| format!("{}: {}\n", own.path.display(), own.reason)).collect()
}

#[test]
fn captions_match_whatever_their_case_and_form() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let jpeg = encoded(&sample(), Jpeg);
    for (picture, caption) in [
        ("IMG_1.JPG", "IMG_1.TXT"),
        ("IMG_2.JPG", "IMG_2.JPG.txt"),
        ("IMG_3.jpg", "IMG_3.caption"),
        ("img_4.jpeg", "IMG_4.txt"),
        // One as macOS wrote it, the other as everybody else does.
        ("cafe\u{301}.jpg", "caf\u{e9}.txt"),
    ] {
        put(at, picture, &jpeg);
        put(at, caption, format!("of {caption}").as_bytes());
    }
    let found = captions(at);
    assert_eq!(found.len(), 5);
    for (picture, caption) in found {
        assert!(caption.is_some(), "{picture}");
    }
    assert_eq!(left_out(at), "");
}

#[test]
fn of_two_captions_the_nearer_is_read_and_the_other_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(at, "a.png", &png());
    put(at, "a.jpg", &encoded(&sample(), Jpeg));
    put(at, "a.txt", b"of both");
    put(at, "a.png.txt", b"of the PNG");
    put(at, "a.caption", b"of neither");
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(captions(at), [("a.jpg".into(), text("of both")), ("a.png".into(), text("of the PNG"))]);
    assert!(left_out(at).ends_with("a.caption: a second caption of the same picture\n"), "{}", left_out(at));
    put(at, "b.png", &png());
    put(at, "b.txt", b"same");
    put(at, "B.TXT", b"other");
    assert_eq!(Caption::beside(at.join("b.png")).unwrap().unwrap().text, "same");
}

#[test]
fn captions_are_decoded_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(at, "a.png", &png());
    put(at, "a.txt", b"a caf\xe9");
    let item = SubjectFolder::open(at.join("a.png")).unwrap().items.remove(0);
    assert_eq!(item.caption.as_deref(), Some("a café"));
    assert_eq!(item.notes[0].path, at.join("a.txt"));
    assert!(item.notes[0].text.contains("Windows-1252"), "{:?}", item.notes);
    let caption = Caption::beside(at.join("a.mp4")).unwrap().unwrap();
    assert!(caption.note.is_some());
    put(at, "a.txt", b"\xea\xee\xf8\xea\xe0");
    let error = Caption::beside(at.join("a.mp4")).unwrap_err().to_string();
    assert!(error.contains("a.txt") && error.contains("save it as UTF-8"), "{error}");
    put(at, "a.txt", b"\xef\xbb\xbf  \r\n");
    assert_eq!(Caption::beside(at.join("a.mp4")).unwrap(), None);
}

#[test]
fn masks_of_other_trainers_are_masks() {
    for (picture, mask) in [
        ("a.png", "a-masklabel.png"),
        ("a.png", "a_mask.png"),
        ("A.JPG", "a_Mask.PNG"),
        ("a.jpg", "a.mask.webp"),
        ("a.jpg", "a-mask.jpg"),
        ("a.jpg", "a.jpg.mask.png"),
        ("a.jpg", "a.jpg_mask.png"),
        ("a.jpg", "masks/a.png"),
        ("a.jpg", "Mask/A.png"),
        ("a.jpg", "mask/a_mask.png"),
        ("a.jpg", "masks/a.jpg.png"),
        ("a.jpg", "conditioning/a.jpg"),
        ("a b.c.jpg", "masks/a b.c.png"),
        ("a.jpg", "a_seg.png"),
        ("a.jpg", "a-matte.png"),
        ("a.jpg", "a_alpha.png"),
        ("a.jpg", "a_masks.png"),
        ("a.jpg", "mask_a.png"),
        ("a.jpg", "Mask-A.png"),
        ("a.jpg", "a_mask_0.png"),
        ("a.jpg", "a_mask01.png"),
        ("0001.png", "mask_0001.png"),
        ("image_0001.png", "mask_0001.png"),
        ("a.jpg", "alpha/a.png"),
        ("a.jpg", "_masks/a.png"),
        ("a.jpg", "matte/a_matte.png"),
        ("a.jpg", "seg/a.png"),
        ("a.jpg", "masks/mask_a.png"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        std::fs::create_dir_all(at.join(mask).parent().unwrap()).unwrap();
        put(at, picture, &encoded(&sample(), if picture.ends_with("png") { Png } else { Jpeg }));
        put(at, mask, &white());
        let subject = SubjectFolder::open(at).unwrap();
        assert_eq!(subject.items.len(), 1, "{mask}");
        assert_eq!(subject.items[0].mask.as_deref(), Some(at.join(mask).as_path()));
        assert_eq!(subject.items[0].load().unwrap().mask.unwrap().alpha, vec![255; 48 * 32], "{mask}");
        assert_eq!(subject.left_out, [], "{mask}");
        assert_eq!(SubjectFolder::open(at.join(picture)).unwrap().items, subject.items);
    }
}

#[test]
fn what_is_only_called_like_a_mask_is_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(at, "a.png", &png());
    put(at, "woman in face_mask.png", &png());
    put(at, "woman in face.txt", b"no picture");
    put(at, "b-masklabel.png", &white());
    // Words that only begin so, and a picture of whose mask there is none.
    for name in ["masked man.png", "alphabet.png", "mask_0007.png"] {
        put(at, name, &png());
    }
    std::fs::create_dir(at.join("masks")).unwrap();
    put(&at.join("masks"), "c.png", &white());
    let subject = SubjectFolder::open(at).unwrap();
    assert_eq!(subject.items.len(), 5);
    assert!(subject.items[4].path.ends_with("woman in face_mask.png"));
    assert!(subject.items.iter().all(|item| item.mask.is_none()));
    let noted = subject.items.iter().map(|item| item.notes.len()).collect::<Vec<_>>();
    assert_eq!(noted, [0, 0, 1, 0, 1]);
    let said = left_out(at);
    assert!(said.contains("b-masklabel.png: named as a mask, but no picture"), "{said}");
    assert!(said.contains("c.png: in a folder of masks, but no picture of that name needs it"), "{said}");
    // Asked for by its name, it is a picture in any case.
    put(at, "a_mask.png", &white());
    assert_eq!(SubjectFolder::open(at.join("a_mask.png")).unwrap().items[0].mask, None);
}

#[test]
fn clips_have_masks_under_many_names() {
    for masks in [
        "a.masks",
        "A_MASKS",
        "a-masks",
        "a_mask",
        "masks/a",
        "mask/A",
        "a.mp4.masks",
        "a_matte",
        "mask_a",
        "alpha/a",
        "_masks/a",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join(masks);
        std::fs::create_dir_all(&at).unwrap();
        put(folder.path(), "a.txt", b"a cat");
        assert_eq!(clip_masks(folder.path().join("a.mp4")), Some(at));
    }
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(clip_masks(folder.path().join("a.mp4")), None);
    let video = put(folder.path(), "a_mask.mp4", b"");
    assert_eq!(clip_masks(folder.path().join("a.mp4")), Some(video));
}

#[test]
fn a_folder_names_what_it_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(at, "a.png", &png());
    put(at, "b.HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic");
    put(at, "c.avif", b"\0\0\0\x1cftypavif\0\0\0\0mif1miafMA1B");
    put(at, "d.dng", b"II*\0\x08\0\0\0\0\0\0\0");
    put(at, "dataset.toml", b"[[datasets]]");
    waves(48, 32, 2, 8.0).write(at.join("e.webp"), &WriteOptions::default()).unwrap();
    let said = left_out(at);
    for (name, part) in [
        ("b.HEIC", "HEIC picture"),
        ("c.avif", "AVIF picture"),
        ("d.dng", "raw picture"),
        ("dataset.toml", "a description of a data set; give it alone"),
        ("e.webp", "an animation"),
    ] {
        let line = said.lines().find(|line| line.contains(name)).unwrap_or_default();
        assert!(line.contains(part), "{name}: {said}");
    }
    let error = |name: &str| FileKind::of(at.join(name)).unwrap_err().to_string();
    assert!(error("b.HEIC").contains("convert it to JPEG or PNG"), "{}", error("b.HEIC"));
    assert!(Picture::open(at.join("c.avif")).unwrap_err().to_string().contains("AVIF"));
    assert_eq!(FileKind::of(at.join("dataset.toml")).unwrap(), FileKind::Description);
    assert_eq!(FileKind::of(at.join("e.webp")).unwrap(), FileKind::Clip);
    assert_eq!(FileKind::of(put(at, "f.dat", &encoded(&sample(), WebP))).unwrap(), FileKind::Picture);
    // A picture of another kind under an ordinary name is an error as any damaged one.
    put(at, "g.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic");
    let error = SubjectFolder::open(at).unwrap_err().to_string();
    assert!(error.contains("g.jpg (a HEIC picture"), "{error}");
}

#[test]
fn what_is_at_fault_beside_a_picture_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(at, "a.png", &png());
    for (caption, wanted) in [
        (&b"\xea\xee\xf8\xea\xe0"[..], "no text in UTF-8"),
        (b"a cat\0 on a sofa", "control character in line 1 (U+0000)"),
        (b"a cat\n\x1b[31mred", "control character in line 2 (U+001B)"),
    ] {
        put(at, "a.txt", caption);
        let error = SubjectFolder::open(at).unwrap_err().to_string();
        let named = error.contains("1 unreadable: a.txt (") && error.contains("it belongs to a.png)");
        assert!(named && error.contains(wanted), "{error}");
        assert!(!error.contains(['\0', '\x1b', '\n']), "{error}");
        // Where it is left out, it is the picture that is.
        put(at, "b.png", &png());
        let lenient = SubjectFolder::open_with(at, FolderOptions { strict: false }).unwrap();
        assert_eq!(lenient.left_out[0].path, at.join("a.png"));
        assert!(lenient.left_out[0].reason.contains("a.txt"), "{:?}", lenient.left_out);
        std::fs::remove_file(at.join("b.png")).unwrap();
    }
    // What editors of DOS end a text with is no part of it.
    put(at, "a.txt", b"a cat\r\n\x1a");
    assert_eq!(captions(at)[0].1.as_deref(), Some("a cat"));
}

#[test]
fn a_mask_may_be_a_cut_out_picture_and_an_odd_one_is_noted() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(at, "a.png", &png());
    let mask = |color: [u8; 4]| {
        let outside = [color[0], color[1], color[2], 0];
        let pixel = |x, _| image::Rgba(if x < 8 { color } else { outside });
        image::RgbaImage::from_fn(48, 32, pixel).save(at.join("a_alpha.png")).unwrap();
        let item = SubjectFolder::open(at.join("a.png")).unwrap().items.remove(0);
        (item.load().unwrap().mask.unwrap().alpha, item.notes)
    };
    // Whatever colour is left, and black, too.
    for color in [[200, 30, 30, 255], [0, 0, 0, 255], [255, 255, 255, 255]] {
        let (alpha, notes) = mask(color);
        assert_eq!((alpha[0], alpha[20], notes.len()), (255, 0, 0), "{color:?}: {notes:?}");
    }
    for (color, wanted) in [([200, 30, 30], "in colours"), ([1; 3], "dark all over")] {
        put(at, "a_alpha.png", &encoded(&Image::filled(48, 32, color), Png));
        let notes = SubjectFolder::open(at.join("a.png")).unwrap().items.remove(0).notes;
        assert!(notes[0].path.ends_with("a_alpha.png") && notes[0].text.contains(wanted), "{notes:?}");
    }
}

#[test]
fn transparency_over_white_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let pixel = |x, _| image::Rgba([200, 0, 0, if x < 10 { 255 } else { 0 }]);
    image::RgbaImage::from_fn(20, 20, pixel).save(&path).unwrap();
    let notes = || SubjectFolder::open(&path).unwrap().items.remove(0).notes;
    assert!(notes()[0].text.contains("over white, and the rest is its mask"), "{:?}", notes());
    put(folder.path(), "a_mask.png", &encoded(&Image::filled(20, 20, [255; 3]), Png));
    assert!(notes()[0].text.contains("its mask is the file"), "{:?}", notes());
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text_are_names() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let folder = tempfile::tempdir().unwrap();
    let named = |name: &[u8]| folder.path().join(OsStr::from_bytes(name));
    std::fs::write(named(b"caf\xe9.png"), png()).unwrap();
    std::fs::write(named(b"CAF\xe9.txt"), "a cat").unwrap();
    std::fs::write(named(b"caf\xe9_mask.png"), white()).unwrap();
    std::fs::write(named(b"a\x1b[31m\n.txt"), "x").unwrap();
    let subject = SubjectFolder::open(folder.path()).unwrap();
    assert_eq!(subject.items.len(), 1);
    assert_eq!(subject.items[0].caption.as_deref(), Some("a cat"));
    assert!(subject.items[0].mask.is_some());
    std::fs::write(named(b"b\x1b[2J\xff.png"), b"hello").unwrap();
    let error = SubjectFolder::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains(r"b\u{1b}[2J\xff.png") && !error.contains(['\x1b', '\n']), "{error}");
}
