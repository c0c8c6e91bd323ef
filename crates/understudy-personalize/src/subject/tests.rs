//! Subjects as people's folders and files give them.

use std::path::Path;

use super::*;

const OPTIONS: SubjectOptions = SubjectOptions {
    size: [16, 24],
    multiple: [8, 8],
    buckets: None,
    clip_frames: 5,
    fps: 8.0,
    strict: true,
};

fn write(path: &Path, width: usize, height: usize) {
    Video::new(vec![Image::filled(width, height, [200, 30, 40])], 8.0)
        .unwrap()
        .write(path, &understudy_media::WriteOptions::default())
        .unwrap();
}

#[test]
fn a_folder_is_cropped_and_what_is_left_out_is_said() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.png"), 40, 20);
    write(&folder.path().join("b.png"), 200, 100);
    std::fs::write(folder.path().join("a.txt"), "a red cat").unwrap();
    std::fs::write(folder.path().join("notes.md"), "hello").unwrap();
    let subject = Subject::open(folder.path(), " teddy  bear ", "<s>", OPTIONS).unwrap();
    let size = |index: usize| {
        let image = &subject.pictures[index].picture.image;
        [image.height, image.width]
    };
    assert_eq!([size(0), size(1)], [[16, 24], [32, 48]]);
    assert_eq!(subject.pictures[0].caption.as_deref(), Some("a red cat"));
    assert_eq!(subject.left_out.len(), 1);
    assert_eq!(subject.phrase(), "<s> teddy bear");
}

fn write_video(path: &Path, frames: u8, frame: impl Fn(u8) -> Image) {
    let video = Video::new((0..frames).map(frame).collect(), 8.0).unwrap();
    video.write(path, &understudy_media::WriteOptions::default()).unwrap();
}

#[test]
fn a_video_becomes_clips() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gif");
    write_video(&path, 12, |at| Image::filled(48, 32, [at * 20, 0, 0]));
    std::fs::write(folder.path().join("a.txt"), "a cat in a room\n\n the cat indoors\n").unwrap();
    let subject = Subject::open(&path, "cat", "<s>", OPTIONS).unwrap();
    assert_eq!((subject.clips.len(), subject.pictures.len()), (2, 0));
    assert_eq!(subject.clip_captions, ["a cat in a room", "the cat indoors"]);
    assert!(subject.left_out[0].reason.contains("last 2 frames"));
    let long = SubjectOptions { clip_frames: 17, ..OPTIONS };
    let subject = Subject::open(&path, "cat", "<s>", long).unwrap();
    assert_eq!(subject.pictures.len(), 12);
    assert!(subject.left_out[0].reason.contains("12 frames make no clip of 17"));
}

#[test]
fn an_animation_is_a_clip_and_a_still_picture_none() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, still) = (folder.path().join("a.webp"), folder.path().join("b.png"));
    write_video(&clip, 12, |at| Image::filled(48, 32, [at * 20, 0, 0]));
    write(&still, 48, 32);
    let counts = |path: &Path| {
        let subject = Subject::open(path, "cat", "<s>", OPTIONS).unwrap();
        (subject.clips.len(), subject.pictures.len())
    };
    assert_eq!((counts(&clip), counts(&still)), ((2, 0), (0, 1)));
}

#[test]
fn a_faster_video_is_learned_at_the_speed_of_the_base() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gif");
    write_video(&path, 12, |at| Image::filled(48, 32, [at * 20, 0, 0]));
    let masks = folder.path().join("a.masks/");
    write_video(&masks, 12, |at| Image::filled(48, 32, [at * 20; 3]));
    let subject = Subject::open(&path, "cat", "<s>", SubjectOptions { fps: 4.0, ..OPTIONS }).unwrap();
    assert_eq!((subject.clips.len(), subject.clip_masks.len(), subject.clips[0].fps), (1, 1, 4.0));
    assert!(subject.left_out[0].reason.contains("6 of its 12 frames"), "{:?}", subject.left_out);
    let reds: Vec<u8> = subject.clips[0].frames.iter().map(|frame| frame.pixel(0, 0)[0]).collect();
    for (at, red) in reds.into_iter().enumerate() {
        assert!(red.abs_diff(40 * at as u8) < 8 && subject.clip_masks[0][at].alpha[0].abs_diff(red) < 8);
    }
}

#[test]
fn masks_beside_a_video_go_with_its_frames() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gif");
    write_video(&path, 7, |at| Image::filled(48, 32, [at * 20, 0, 0]));
    let masks = folder.path().join("a.masks/");
    let mask =
        |at: u8| Image::from_fn(48, 32, move |x, _| [if x < 8 + usize::from(at) { 255 } else { 0 }; 3]);
    write_video(&masks, 6, mask);
    let message = Subject::open(&path, "cat", "<s>", OPTIONS).unwrap_err().to_string();
    assert!(message.contains("6 masks") && message.contains("7 frames"), "{message}");
    std::fs::remove_dir_all(&masks).unwrap();
    write_video(&masks, 7, mask);
    let subject = Subject::open(&path, "cat", "<s>", OPTIONS).unwrap();
    assert_eq!((subject.clips.len(), subject.clip_masks.len(), subject.clip_masks[0].len()), (1, 1, 5));
    // Cut as the frames are, to the middle and to half the height.
    let [first, fifth] = [0, 4].map(|at: usize| {
        let mask = &subject.clip_masks[0][at];
        mask.alpha[..mask.width].iter().filter(|value| **value > 127).count()
    });
    assert!(fifth > first, "{first} {fifth}");
    let seen = subject.frames();
    assert_eq!(seen[4].picture.mask.as_ref(), Some(&subject.clip_masks[0][4]));
    // Too short for a clip, its frames are pictures, with their masks.
    let long = SubjectOptions { clip_frames: 17, ..OPTIONS };
    let pictures = Subject::open(&path, "cat", "<s>", long).unwrap().pictures;
    assert!(pictures.len() == 7 && pictures.iter().all(|own| own.picture.mask.is_some()));
}

#[test]
fn pictures_and_clips_keep_their_aspect() {
    let folder = tempfile::tempdir().unwrap();
    let options = SubjectOptions { size: [64, 64], buckets: Some(2.0), ..OPTIONS };
    // A person, and the same without a head.
    let person = |head: [u8; 3]| {
        Image::from_fn(120, 320, move |_, y| if y < 64 { head } else { [200, (y / 2) as u8, 0] })
    };
    let saved = |name: &str, image: Image| {
        let path = folder.path().join(name);
        let video = Video::new(vec![image], 8.0).unwrap();
        video.write(&path, &understudy_media::WriteOptions::default()).unwrap();
        path
    };
    let (a, b) = (saved("a.png", person([0; 3])), saved("b.png", person([255; 3])));
    let read = |path: &Path, options| Subject::open(path, "man", "<s>", options).unwrap();
    let (one, other) = (read(&a, options), read(&b, options));
    assert_eq!(one.pictures[0].size, [80, 40]);
    assert_ne!(one.pictures[0].picture, other.pictures[0].picture);
    // A quarter of the height goes, which is still without a word; what loses more is named.
    assert!(one.left_out.is_empty(), "{:?}", one.left_out);
    let cut = read(&a, SubjectOptions { buckets: None, ..options });
    assert_eq!(
        cut.pictures[0].picture,
        read(&b, SubjectOptions { buckets: None, ..options }).pictures[0].picture
    );
    let said = &cut.left_out[0].reason;
    assert!(said.contains("63 % of its height") && said.contains("--height"), "{said}");
    // A clip, with its masks.
    let clip = folder.path().join("c.gif");
    write_video(&clip, 5, |at| Image::filled(60, 40, [at * 40, 0, 0]));
    write_video(&folder.path().join("c.masks/"), 5, |_| Image::filled(60, 40, [255; 3]));
    let subject = read(&clip, options);
    assert_eq!((subject.clips[0].height(), subject.clips[0].width()), (48, 80));
    assert_eq!((subject.clip_masks[0][0].height, subject.clip_masks[0][0].width), (48, 80));
    assert_eq!(subject.frames()[0].size, [48, 80]);
    // What is square stays what it was.
    let square = saved("d.png", Image::from_fn(70, 70, |x, y| [(x * 3) as u8, (y * 3) as u8, 0]));
    let one_size = SubjectOptions { buckets: None, ..options };
    assert_eq!(read(&square, options).pictures, read(&square, one_size).pictures);
}

#[test]
fn captions_of_clips_are_never_swallowed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gif");
    write_video(&path, 5, |at| Image::filled(48, 32, [at * 40, 0, 0]));
    let caption = folder.path().join("a.TXT");
    let open = || Subject::open(&path, "cat", "<s>", OPTIONS);
    std::fs::write(&caption, b"a cat [walks] in a caf\xe9").unwrap();
    let subject = open().unwrap();
    assert_eq!(subject.clip_captions, ["a cat [walks] in a café"]);
    assert_eq!(subject.notes[0].path, caption);
    assert!(subject.notes[0].text.contains("Windows-1252"), "{:?}", subject.notes);
    let wide: Vec<u8> = "\u{feff}a cat".encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(&caption, wide).unwrap();
    assert_eq!(open().unwrap().clip_captions, ["a cat"]);
    std::fs::write(&caption, b"\xea\xee\xf8\xea\xe0").unwrap();
    let message = open().unwrap_err().to_string();
    assert!(message.contains("a.TXT") && message.contains("UTF-8"), "{message}");
}

#[test]
fn how_captions_are_read_is_said_once_for_each_kind() {
    let folder = tempfile::tempdir().unwrap();
    for (name, caption) in
        [("a", "a <s> cat"), ("b", "<s>"), ("c", "a cat"), ("d", "[trigger] asleep"), ("e", "photo of ohwx")]
    {
        write(&folder.path().join(format!("{name}.png")), 32, 32);
        std::fs::write(folder.path().join(format!("{name}.txt")), caption).unwrap();
    }
    let subject = Subject::open(folder.path(), "cat", "<s>", OPTIONS).unwrap();
    let said: Vec<&str> = subject.notes.iter().map(|note| note.text.as_str()).collect();
    assert_eq!(
        said,
        [
            "its caption has <s> in it and stays as it is (and 1 more like it: b.png)",
            "its caption is read with \"<s> cat\" in place of what stands for it",
            "its caption does not name the cat; it is read as \"a <s> cat, photo of ohwx\"",
        ]
    );
}

#[test]
fn a_description_of_a_data_set_is_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("img")).unwrap();
    write(&folder.path().join("img/a.png"), 48, 32);
    std::fs::write(folder.path().join("img/a.txt"), "a <s> cat").unwrap();
    let toml = folder.path().join("dataset.toml");
    std::fs::write(&toml, "[general]\nresolution = [64, 64]\n[[datasets]]\nimage_directory = \"img\"\n")
        .unwrap();
    let subject = Subject::open(&toml, "cat", "<s>", OPTIONS).unwrap();
    assert_eq!(subject.pictures[0].caption.as_deref(), Some("a <s> cat"));
    assert!(subject.notes[0].text.contains("resolution 64x64"), "{:?}", subject.notes);
    let list = folder.path().join("data.jsonl");
    std::fs::write(&list, "{\"image_path\": \"img/a.png\", \"caption\": \"a cat\"}").unwrap();
    assert_eq!(Subject::open(&list, "cat", "<s>", OPTIONS).unwrap().pictures.len(), 1);
    // In a folder of its own it is named.
    let message = Subject::open(folder.path(), "cat", "<s>", OPTIONS).unwrap_err().to_string();
    assert!(message.contains("dataset.toml (a description of a data set"), "{message}");
    write_video(&folder.path().join("b.gif"), 5, |at| Image::filled(48, 32, [at * 40, 0, 0]));
    let video = "{\"video_path\": \"b.gif\", \"caption\": \"a cat\"}\n";
    std::fs::write(&list, video).unwrap();
    let subject = Subject::open(&list, "cat", "<s>", OPTIONS).unwrap();
    assert_eq!((subject.clips.len(), subject.clip_captions.len()), (1, 1));
    std::fs::write(&list, video.repeat(2)).unwrap();
    let message = Subject::open(&list, "cat", "<s>", OPTIONS).unwrap_err().to_string();
    assert!(message.contains("several videos"), "{message}");
}

#[test]
fn what_cannot_be_used_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    write(&path, 32, 32);
    let refused = |path: &Path, class: &str, token: &str| {
        let message = Subject::open(path, class, token, OPTIONS).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    };
    assert!(refused(&path, " ", "<s>").contains("class is empty"));
    assert!(refused(&path, "c{a}t", "<s>").contains("class has characters"));
    assert!(refused(&path, "cat", "").contains("token"));
    assert!(refused(&path, "cat", "two words").contains("one word"));
    assert!(refused(&path, "cat", "&lt;").contains("without &"));
    assert!(refused(&path, "big Cat", "cat").contains("class itself"));
    assert!(refused(&folder.path().join("none"), "cat", "<s>").contains("none"));
    std::fs::write(folder.path().join("b.png"), b"\x89PNG\r\n\x1a\n truncated").unwrap();
    assert!(refused(folder.path(), "cat", "<s>").contains("b.png"));
    assert!(refused(&folder.path().join("b.png"), "cat", "<s>").contains("b.png"));
    let heic = folder.path().join("IMG_1.HEIC");
    std::fs::write(&heic, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").unwrap();
    assert!(refused(&heic, "cat", "<s>").contains("convert it to JPEG or PNG"));
    assert!(Subject::from_pictures(&[], "cat", "<s>", [16, 16]).is_err());
}

/// A PNG of 16x16 pixels of which the right half is transparent.
const CUT_OUT: &[u8] =
    b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x10\x00\x00\x00\x10\x08\
    \x04\x00\x00\x00\xb5\xfa\x37\xea\x00\x00\x00\x15\x49\x44\x41\x54\x78\xda\x63\x68\xf8\x8f\x06\x19\x50\
    \x21\xc3\xa8\x82\x91\xa4\x00\x00\x89\xf5\xff\x81\xd3\xef\x03\x2e\x00\x00\x00\x00\x49\x45\x4e\x44\xae\
    \x42\x60\x82";

fn folder_of(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| std::fs::write(folder.path().join(name), bytes).unwrap());
    folder
}

fn said(subject: &Subject) -> String {
    subject.notes.iter().map(|note| format!("{}: {}\n", note.path.display(), note.text)).collect()
}

#[test]
fn words_of_a_class_and_of_captions_are_a_space_apart() {
    let folder =
        folder_of(&[("a.txt", b"a  Teddy \n Bear on a sofa"), ("b.txt", b"asleep"), ("c.txt", b"in a room")]);
    ["a.png", "b.png", "c.png"].iter().for_each(|name| write(&folder.path().join(name), 32, 32));
    let subject = Subject::open(folder.path(), " Teddy  Bear ", "<s>", OPTIONS).unwrap();
    assert_eq!(subject.phrase(), "<s> Teddy Bear");
    assert_eq!(subject.pictures[0].caption.as_deref(), Some("a Teddy Bear on a sofa"));
    // That captions have no place for the subject is said, and of which.
    let said = said(&subject);
    assert_eq!(said.lines().count(), 1, "{said}");
    let named = "b.png: its caption does not name the Teddy Bear; it is read as \"a <s> Teddy Bear, asleep\"";
    assert!(said.contains(named) && said.contains("1 more like it: c.png"), "{said}");
}

#[test]
fn a_folder_of_one_video_is_that_video() {
    let folder = folder_of(&[("a.txt", b"a cat [jumps]"), ("notes.md", b"x")]);
    let at = folder.path();
    write_video(&at.join("a.gif"), 12, |at| Image::filled(48, 32, [at * 20, 0, 0]));
    write_video(&at.join("a_masks/"), 12, |at| Image::filled(48, 32, [at * 20; 3]));
    let subject = Subject::open(at, "cat", "<s>", OPTIONS).unwrap();
    assert_eq!((subject.clips.len(), subject.clip_masks.len(), subject.clip_captions.len()), (2, 2, 1));
    assert!(said(&subject).contains("a.gif: it is learned from"), "{}", said(&subject));
    let left_out: Vec<_> = subject.left_out.iter().filter_map(|own| own.path.file_name()).collect();
    assert_eq!(left_out, ["a.gif", "notes.md"], "{:?}", subject.left_out);
    // Of several, one is to be named.
    std::fs::write(at.join("b.mkv"), b"\x1a\x45\xdf\xa3").unwrap();
    let message = Subject::open(at, "cat", "<s>", OPTIONS).unwrap_err().to_string();
    assert!(message.contains("b.mkv (a video; name it alone"), "{message}");
    // What the program's own reader does not know goes the way of a file named alone.
    let webm = Path::new(env!("CARGO_MANIFEST_DIR")).join("../understudy-media/tests/clips/vp9.webm");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(webm, folder.path().join("a.webm")).unwrap();
    match Subject::open(folder.path(), "cat", "<s>", OPTIONS) {
        Ok(subject) => assert!(!subject.clips.is_empty()),
        Err(error) => assert!(error.to_string().contains("install ffmpeg"), "{error}"),
    }
}

#[test]
fn what_is_made_of_pictures_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.png", "b.png"] {
        std::fs::write(folder.path().join(name), CUT_OUT).unwrap();
    }
    let subject = Subject::open(folder.path(), "cat", "<s>", OPTIONS).unwrap();
    let said = said(&subject);
    assert!(said.contains("laid over white") && said.contains("1 more like it: b.png"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn keys_of_a_data_set_that_do_nothing_are_named() {
    let folder = tempfile::tempdir().unwrap();
    write_video(&folder.path().join("a.gif"), 12, |at| Image::filled(48, 32, [at * 20, 0, 0]));
    let list = "{\"video_path\": \"a.gif\", \"caption\": \"a cat\", \"control_path_0\": \"x\"}";
    std::fs::write(folder.path().join("a.jsonl"), list).unwrap();
    let toml = folder.path().join("dataset.toml");
    let keys = "target_frames = [1, 25]\nframe_extraction = \"head\"\nsource_fps = 30.0\nenable_bucket = true\n\
                fp_1f_no_post = true\nnum_repeats = 1\n";
    std::fs::write(&toml, format!("[[datasets]]\nvideo_jsonl_file = \"a.jsonl\"\n{keys}")).unwrap();
    let subject = Subject::open(&toml, "cat", "<s>", OPTIONS).unwrap();
    let said = said(&subject);
    for key in [
        "target_frames",
        "frame_extraction",
        "source_fps",
        "enable_bucket",
        "fp_1f_no_post",
        "control_path_0",
    ] {
        assert!(said.contains(&format!("{key} is not used: ")), "{key}: {said}");
    }
    assert!(!said.contains("num_repeats"), "{said}");
}

#[test]
fn lists_of_other_programs_say_what_to_give() {
    let folder = folder_of(&[
        ("a.csv", b"file,caption\na.png,a cat\n"),
        ("b.yaml", b"config:\n  datasets:\n"),
        ("c.json", b"[{\"a\": 1}]"),
        (
            "d.toml",
            b"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'img/10_cat'\nclass_tokens = 'ohwx cat'\n",
        ),
        ("e.toml", b"resolutions = [512]\n[[directory]]\npath = '/data/cats'\n"),
        ("f.txt", b"a cat"),
        ("g.zip", b"PK\x03\x04"),
        ("h.mp4", b""),
    ]);
    for (name, parts) in [
        ("a.csv", ["a table", "NAME.txt beside"]),
        ("b.yaml", ["YAML", "give the folder of pictures"]),
        ("c.json", ["a JSON file", ".jsonl"]),
        ("d.toml", ["kohya", "(img/10_cat) as --subject, and of its class_tokens \"ohwx cat\""]),
        ("e.toml", ["diffusion-pipe", "(/data/cats) as --subject"]),
        ("f.txt", ["a text", "give a folder"]),
        ("g.zip", ["an archive", "unpack it"]),
        ("h.mp4", ["is empty", "download it again"]),
    ] {
        let message =
            Subject::open(&folder.path().join(name), "cat", "<s>", OPTIONS).unwrap_err().to_string();
        assert!(message.contains(name) && parts.iter().all(|part| message.contains(part)), "{message}");
        assert!(!message.contains('\n') && !message.contains("MP4"), "{message}");
    }
}
