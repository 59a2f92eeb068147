import json
import shutil
from dataclasses import replace

import pytest
from embedding_samples import MemorySource, encoded, picture, run_elsewhere, sample
from owned_elsewhere import owned_elsewhere
from test_embed_run import InterruptionError, content, files_of, full, interrupt, write_folder, write_tars

from truepair.cli.main import main
from truepair.config.embedding import EmbedConfig, Share
from truepair.data.embeddings import load_embeddings_splits
from truepair.embedding.joining import join, join_source
from truepair.embedding.run import embed, embed_source
from truepair.embedding.shares import pieces_of, share_folder
from truepair.errors import ConfigError, DataError
from truepair.files.locking import alone_in
from truepair.sources.opening import open_source
from truepair.sources.protocol import Skipped
from truepair.sources.versions import contents_of

MEMORY = {"path": "memory"}


def one_shard():
    """Eleven pictures of which two cannot be decoded, with captions of many lengths, and one that is missing."""
    items = [sample(number, "a cat" + " and a red dog" * (number % 3), "it runs") for number in range(12)]
    items[2] = Skipped("row 2", "missing picture", "2.png", ("2#0",))
    items[5] = sample(5, "it sleeps", picture_bytes=b"broken")
    items[9] = sample(9, "a bird", picture_bytes=b"")
    return {"a": items}


def encode(source, out, config, number, of):
    return embed_source(source, MEMORY, out, replace(config, shards=f"{number}/{of}"))


def bytes_of(out):
    """`files_of` without what may differ: on what and how fast it was computed."""
    files = files_of(out)
    described = json.loads(files["embeddings.json"])
    del described["hardware"]
    return files | {"embeddings.json": json.dumps(described).encode()}


def alone(contents, out, config):
    """What one machine writes."""
    embed_source(MemorySource(contents), MEMORY, out, config)
    return bytes_of(out)


@pytest.mark.parametrize("of", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("shards", [0, 1, 2, 3, 16, 33])
def test_machines_share_every_batch_of_every_shard_once_and_equally(shards, of):
    shares = [pieces_of(Share(number + 1, of), shards) for number in range(of)]
    had = [(piece.shard, batch) for pieces in shares for piece in pieces for batch in piece.batches.remainders]
    assert sorted(had) == [(shard, batch) for shard in range(shards) for batch in range(of)]
    assert {sum(len(piece.batches.remainders) for piece in pieces) for pieces in shares} == {shards}
    assert all(piece.batches.are_all for pieces in shares for piece in pieces[1:-1])  # only those at a border are cut


@pytest.mark.parametrize("of", [1, 2, 3, 5])
@pytest.mark.parametrize("contents", [content, one_shard])
def test_parts_of_several_machines_become_the_bytes_of_one(tmp_path, config, contents, of):
    expected = alone(contents(), tmp_path / "alone", config)
    for number in reversed(range(of)):
        encode(MemorySource(contents()), tmp_path / "out", config, number + 1, of)
    summary = join_source(MemorySource(contents()), MEMORY, tmp_path / "out", config)
    assert bytes_of(tmp_path / "out") == expected
    assert summary == json.loads((tmp_path / "out" / "embeddings.json").read_text())


@pytest.mark.parametrize("options", [{"text_encoder": "none"}, {"grid": 2}, {"batch_size": 1}, {"batch_size": 100}])
def test_so_do_parts_without_captions_with_regions_and_of_other_batches(tmp_path, config, options):
    config = replace(config, **options)
    expected = alone(one_shard(), tmp_path / "alone", config)
    for number in (1, 2, 3):
        encode(MemorySource(one_shard()), tmp_path / "out", config, number, 3)
    join_source(MemorySource(one_shard()), MEMORY, tmp_path / "out", config)
    assert bytes_of(tmp_path / "out") == expected


def test_folders_of_their_own_are_joined_and_stay(tmp_path, config):
    expected = alone(content(), tmp_path / "alone", config)
    folders = [tmp_path / str(number) for number in (1, 2)]
    for number, folder in enumerate(folders, start=1):
        encode(MemorySource(content()), folder, config, number, 2)
    join_source(MemorySource(content()), MEMORY, tmp_path / "out", config, folders)
    assert bytes_of(tmp_path / "out") == expected
    join_source(MemorySource(content()), MEMORY, folders[0], config, folders)  # into one of them, named or not
    assert bytes_of(folders[0]) == expected
    assert share_folder(folders[1], Share(2, 2)).is_dir()


@pytest.mark.parametrize("place", [("a", 3), ("b", 1), ("c", 2), ("c", 7)])
def test_a_machine_that_stopped_goes_on_with_the_same_command(tmp_path, config, place):
    shard, item = place
    expected, out = alone(content(), tmp_path / "alone", config), tmp_path / "out"
    for number in (1, 2):
        try:
            encode(MemorySource(content(), {shard: (item, interrupt)}), out, config, number, 2)
        except InterruptionError:
            encode(MemorySource(content()), out, config, number, 2)
    never = dict.fromkeys("abc", (0, pytest.fail))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    pictures = PicturesUnread(content())
    encode(pictures, out, config, 2, 2)  # as cron does: nothing is left to do
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    join_source(MemorySource(content()), MEMORY, out, config)
    assert bytes_of(out) == expected
    encode(MemorySource(content(), never), out, config, 1, 2)  # and when the store is done
    assert bytes_of(out) == expected


class PicturesUnread(MemorySource):
    """A source whose names may be read, and no picture."""

    def read(self, shard, *, pictures=True):
        assert not pictures
        return super().read(shard, pictures=pictures)


def test_a_join_that_stopped_goes_on_with_the_same_command(tmp_path, config, monkeypatch):
    expected = alone(one_shard(), tmp_path / "alone", config)
    for number in (1, 2):
        encode(MemorySource(one_shard()), tmp_path / str(number), config, number, 2)
    folders, out = [tmp_path / "1", tmp_path / "2"], tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("truepair.embedding.store.pq.ParquetWriter", full)  # images.npy and captions.npy are written
        with pytest.raises(DataError, match="cannot be written"):
            join_source(MemorySource(one_shard()), MEMORY, out, config, folders)
    assert (out / "images.npy").exists()
    join_source(MemorySource(one_shard()), MEMORY, out, config, folders)
    assert bytes_of(out) == expected


@pytest.mark.parametrize("shards", ["17/16", "0/16", "3", "1/0", "-1/2", "1/2/3", "a/b", ""])
def test_what_is_no_share_is_refused_with_its_flag(tmp_path, capsys, shards):
    with pytest.raises(SystemExit):
        main(["embed", "t.csv", "--out", str(tmp_path / "out"), f"--shards={shards}"])
    said = capsys.readouterr().err.splitlines()[0]
    assert (
        said == f"truepair: error: --shards is {shards!r}, but it is K/N, this machine's number of all, from 1/N to N/N"
    )


def test_options_that_do_not_go_together_are_refused(tmp_path, capsys):
    command = ["embed", "t.csv", "--out", str(tmp_path / "out"), "--shards", "1/2"]
    with pytest.raises(SystemExit):
        main([*command, "--engine", "ray"])
    assert "--engine is 'ray', which gives out the shards itself: leave --shards out" in capsys.readouterr().err
    assert main([*command, "--join"]) == 1
    assert "--join encodes nothing: leave --shards and --engine out" in capsys.readouterr().err


def refused(tmp_path, config, message, folders=(), contents=None, description=MEMORY, out="out"):
    with pytest.raises((ConfigError, DataError), match=message):
        join_source(MemorySource(contents or content()), description, tmp_path / out, config, folders)
    assert not (tmp_path / out / "images.npy").exists()


def test_parts_that_do_not_make_a_whole_are_refused(tmp_path, config):
    (tmp_path / "empty").mkdir()
    refused(tmp_path, config, "holds no parts to join: encode them with --shards 1/N to N/N first")
    for number, of in ((1, 4), (3, 4), (2, 2)):
        encode(MemorySource(content()), tmp_path / f"{number} of {of}", config, number, of)
    first, third, other = (tmp_path / name for name in ("1 of 4", "3 of 4", "2 of 2"))
    refused(tmp_path, config, "2 of 4 parts are there; run --shards 2/4 and 4/4 too", [first, third])
    refused(tmp_path, config, "the part 1/4 is there twice, in .*1 of 4.* and .*1 of 4", [first, first])
    refused(tmp_path, config, "is part 1/4, but .*00002-of-00002 is 2/2: join parts of one number", [first, other])
    refused(tmp_path, config, "empty holds no part of an embedding", [first, tmp_path / "empty"])


def test_parts_of_other_sources_and_encoders_are_refused(tmp_path, config, bert_folder):
    encode(MemorySource(content()), tmp_path / "out", config, 1, 2)
    encode(MemorySource(content()), tmp_path / "bert", replace(config, text_encoder=bert_folder), 2, 2)
    both = [tmp_path / "bert"]
    refused(tmp_path, config, "00002-of-00002 holds features with text_encoder '.*bert.*', but '.*clip", both)
    encode(MemorySource(content()), tmp_path / "out", config, 2, 2)
    refused(tmp_path, config, "with path 'memory', but 'elsewhere' was asked for", description={"path": "elsewhere"})
    refused(tmp_path, config, "holds features of 3 parts of memory, which now has 4", contents=content() | {"d": []})
    plan = share_folder(tmp_path / "out", Share(2, 2)) / "plan.json"
    plan.write_text(plan.read_text().replace('"runtime": "PyTorch"', '"runtime": "ONNX Runtime"'))
    message = "encoded with image_encoder runtime 'ONNX Runtime', not 'PyTorch' as here: use the same encoders"
    refused(tmp_path, config, message)
    shutil.rmtree(share_folder(tmp_path / "out", Share(1, 2)))
    with pytest.raises(ConfigError, match=message):  # not only in the end
        encode(MemorySource(content()), tmp_path / "out", config, 1, 2)


def test_a_shard_that_changed_between_two_calls_is_refused_by_name(tmp_path, config):
    out, changed = tmp_path / "out", content() | {"b": [sample(91)]}
    with pytest.raises(InterruptionError):
        encode(MemorySource(content(), {"c": (1, interrupt)}), out, config, 2, 2)
    message = "memory is not what it was when .*-of-00002 was begun .part 'b' of it.: restore it, or .* on all machines"
    for number in (1, 2):
        with pytest.raises(ConfigError, match=message):
            encode(MemorySource(changed), out, config, number, 2)
        encode(MemorySource(content()), out, config, number, 2)
    refused(tmp_path, config, "memory is not what it was when", contents=changed)


def test_an_unfinished_part_is_refused(tmp_path, config):
    encode(MemorySource(content()), tmp_path / "out", config, 1, 2)
    with pytest.raises(InterruptionError):
        encode(MemorySource(content(), {"c": (1, interrupt)}), tmp_path / "out", config, 2, 2)
    refused(tmp_path, config, r"00002-of-00002 is not finished \(1 of 2 shards\): run --shards 2/2 again")


def test_a_picture_that_changed_between_two_machines_of_a_shard_is_seen(tmp_path, config):
    encode(MemorySource(one_shard()), tmp_path / "out", config, 1, 2)
    changed = one_shard()
    changed["a"][7] = replace(changed["a"][7], picture=encoded(picture(99)))
    encode(MemorySource(changed), tmp_path / "out", config, 2, 2)
    refused(
        tmp_path,
        config,
        "shard 'a' changed between --shards 1/2 and 2/2: delete .* and run both again",
        contents=one_shard(),
    )


def test_a_damaged_part_is_refused(tmp_path, config):
    for number in (1, 2):
        encode(MemorySource(one_shard()), tmp_path / "out", config, number, 2)
    (damaged,) = (folder / "00000.1-1" for folder in [share_folder(tmp_path / "out", Share(2, 2))])
    shutil.copy(share_folder(tmp_path / "out", Share(1, 2)) / "00000.0-0" / "images.npy", damaged)
    refused(
        tmp_path,
        config,
        r"00000.1-1/images.npy has 5 rows in place of 4: delete .* and run --shards 2/2 again",
        contents=one_shard(),
    )


def test_a_folder_for_something_else_is_refused(tmp_path, config):
    out = tmp_path / "out"
    encode(MemorySource(content()), out, config, 1, 2)
    with pytest.raises(
        ConfigError, match="holds the part 1/2, but 1/3 was asked for: give all machines the same number"
    ):
        encode(MemorySource(content()), out, config, 1, 3)
    with pytest.raises(ConfigError, match="with grid None, but 2 was asked for"):
        encode(MemorySource(content()), out, replace(config, grid=2), 2, 2)
    with pytest.raises(ConfigError, match=r"holds parts of several machines \(1/2\): finish them with --shards"):
        embed_source(MemorySource(content()), MEMORY, out, config)
    with pytest.raises(DataError, match=r"is not finished: .* parts of several machines are put together with --join"):
        load_embeddings_splits(out)
    begun = tmp_path / "begun"
    with pytest.raises(InterruptionError):
        embed_source(MemorySource(content(), {"b": (0, interrupt)}), MEMORY, begun, config)
    with pytest.raises(ConfigError, match="holds an embedding that was begun without --shards"):
        encode(MemorySource(content()), begun, config, 1, 2)
    (tmp_path / "mine" / "parts").mkdir(parents=True)
    (tmp_path / "mine" / "parts" / "wheel.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="already holds parts, of something else"):
        encode(MemorySource(content()), tmp_path / "mine", config, 1, 2)


def test_two_processes_with_the_same_share_do_not_mix_and_those_with_others_do_not_wait(tmp_path, config):
    with owned_elsewhere(alone_in(share_folder(tmp_path / "out", Share(1, 2)))):
        with pytest.raises(ConfigError, match=r"another process is writing .*00001-of-00002: wait for it to end"):
            encode(MemorySource(content()), tmp_path / "out", config, 1, 2)
        encode(MemorySource(content()), tmp_path / "out", config, 2, 2)
    encode(MemorySource(content()), tmp_path / "out", config, 1, 2)
    taken = pytest.raises(ConfigError, match="another process is writing")
    with owned_elsewhere(alone_in(tmp_path / "alone")), taken:
        embed_source(MemorySource(content()), MEMORY, tmp_path / "alone", config)
    with owned_elsewhere(alone_in(tmp_path / "out")), taken:
        join_source(MemorySource(content()), MEMORY, tmp_path / "out", config)


def test_an_encoder_that_cannot_be_loaded_does_not_bind_the_folder(tmp_path, config):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        encode(MemorySource(content()), tmp_path, replace(config, text_encoder="no/such-network"), 1, 2)
    encode(MemorySource(content()), tmp_path, config, 1, 3)


def test_nothing_to_encode_is_said_in_the_end_and_a_mended_source_is_read_anew(tmp_path, config):
    broken = {"a": [sample(1)], "b": [sample(2, picture_bytes=b"broken")]}
    assert encode(MemorySource(broken), tmp_path / "out", config, 2, 2)["images"] == 0
    assert encode(MemorySource(broken), tmp_path / "out", config, 1, 2)["images"] == 1
    join_source(MemorySource(broken), MEMORY, tmp_path / "out", config)
    nothing = {"a": []}
    for number in (1, 2):
        encode(MemorySource(nothing), tmp_path / "nothing", config, number, 2)
    refused(tmp_path, config, "holds no picture with a caption", contents=nothing, out="nothing")
    assert encode(MemorySource(one_shard()), tmp_path / "nothing", config, 1, 2)["images"] == 5


_KILLED = """
import os, signal, sys
from embedding_samples import MemorySource
from test_embed_run import content
from truepair.config.embedding import EmbedConfig
from truepair.embedding.run import embed_source
from pathlib import Path
network, out = sys.argv[1:]
config = EmbedConfig(image_encoder=network, text_encoder=network, batch_size=4, device="cpu", shards="2/2")
source = MemorySource(content(), {"c": (6, lambda: os.kill(os.getpid(), signal.SIGKILL))})
embed_source(source, {"path": "memory"}, Path(out), config)
"""


@pytest.mark.slow
def test_a_killed_machine_lets_go_of_its_folder_and_loses_no_finished_shard(tmp_path, config):
    out = tmp_path / "out"
    killed = run_elsewhere(_KILLED, config.image_encoder, str(out))
    assert killed.returncode == -9, killed.stderr
    assert (share_folder(out, Share(2, 2)) / "00001.1-1").is_dir()
    assert not (share_folder(out, Share(2, 2)) / "00002").exists()
    for number in (1, 2):
        encode(MemorySource(content()), out, config, number, 2)
    join_source(MemorySource(content()), MEMORY, out, config)
    assert bytes_of(out) == alone(content(), tmp_path / "alone", config)


def write_table(place, pictures):
    (place / "t.csv").write_text("image,caption\n" + "".join(f"{name}.png,a dog {name}\n" for name in pictures))
    for name, data in pictures.items():
        (place / f"{name}.png").write_bytes(data)


@pytest.mark.parametrize("write", [write_folder, write_tars, write_table])
def test_sources_on_disk_by_the_command_line(tmp_path, clip_folder, write, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    write(photos, {f"p{number:02}": encoded(picture(number)) for number in range(12)})
    source = str(photos / "t.csv" if write is write_table else photos)
    networks = ["--image-encoder", clip_folder, "--text-encoder", clip_folder, "--device", "cpu", "--batch-size", "2"]
    out = tmp_path / "out"
    for number in (1, 2):
        assert main(["embed", source, "--out", str(out), *networks, "--shards", f"{number}/2"]) == 0
        assert f"part {number}/2 is done; when all are, the same command with --join" in capsys.readouterr().out
    assert main(["embed", source, "--out", str(out), *networks, "--join"]) == 0
    assert capsys.readouterr().out.startswith("12 images, 12 captions, ")
    config = EmbedConfig(clip_folder, clip_folder, batch_size=2, device="cpu")
    embed(source, tmp_path / "alone", config)
    assert bytes_of(out) == bytes_of(tmp_path / "alone")
    assert join(source, out, config)["images"] == 12  # once more


@pytest.mark.parametrize("write", [write_folder, write_tars, write_table])
def test_contents_tell_a_changed_source(tmp_path, write):
    pictures = {f"p{number:02}": encoded(picture(number)) for number in range(12)}
    found = []
    for name, some in (
        ("all", pictures),
        ("again", pictures),
        ("less", {key: pictures[key] for key in list(pictures)[8:]}),
    ):
        place = tmp_path / name
        place.mkdir()
        write(place, some)
        found.append(
            contents_of(open_source(str(place / "t.csv" if write is write_table else place), EmbedConfig().source))
        )
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]
