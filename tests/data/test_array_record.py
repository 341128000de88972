import secrets

import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from odd_images import encode, solid

from ldm_jax.data.array_record_files import pack_record, unpack_record
from ldm_jax.data.sources import open_source


def picture(grey):
    return encode(solid("RGB", (4, 4), (grey,) * 3), "PNG")


def write(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def test_plain_images_of_several_files_follow_one_another(tmp_path):
    write(tmp_path / "b.array_record", [picture(20)])
    write(tmp_path / "a.array_record", [picture(0), picture(10)])
    source = open_source(f"array_record:{tmp_path}/*.array_record")
    examples = [source[index] for index in range(len(source))]
    assert [example["image"][0, 0, 0] for example in examples] == [0, 10, 20]
    names = ["a.array_record[0]", "a.array_record[1]", "b.array_record[0]"]
    assert [example["name"] for example in examples] == names
    assert set(examples[0]) == {"image", "name", "index"}


def test_annotations_travel_with_the_record(tmp_path):
    annotation = {"caption": "größe", "class_label": 3}
    packed = pack_record(picture(7), annotation)
    assert unpack_record(packed) == (annotation, picture(7))
    write(tmp_path / "x", [packed, picture(8)])
    source = open_source(f"array_record:{tmp_path}/x")
    assert (source[0]["caption"], source[0]["class_label"]) == ("größe", 3)
    assert source[1]["name"] == "x[0]"  # the second has no caption: skipped
    assert list(source.corrupt) == ["record 1"]


def test_split_in_the_pattern_chooses_files(tmp_path, caplog):
    for split, grey in (("train", 1), ("val", 2)):
        write(tmp_path / f"{split}-0", [picture(grey)])
    spec = f"array_record:{tmp_path}/{{split}}-*"
    assert open_source(spec)[0]["image"].max() == 1
    assert open_source(spec, split="val")[0]["image"].max() == 2
    assert len(open_source(spec, split="all")) == 2 and not caplog.records
    open_source(f"array_record:{tmp_path}/train-*", split="val")
    assert "training pictures" in caplog.text


def test_a_damaged_record_is_skipped_and_a_foreign_file_is_named(tmp_path):
    write(
        tmp_path / "x", [picture(grey) + secrets.token_bytes(999) for grey in range(5)]
    )
    content = bytearray((tmp_path / "x").read_bytes())
    third = content.index(picture(2))
    content[third : third + 64] = bytes(64)
    (tmp_path / "x").write_bytes(content)
    source = open_source(f"array_record:{tmp_path}/x")
    assert [source[index]["index"] for index in range(5)] == [0, 1, 3, 3, 4]
    assert "x[2]" in source.corrupt["record 2"]
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="text cannot be read as array_record"):
        open_source(f"array_record:{tmp_path}/text")
