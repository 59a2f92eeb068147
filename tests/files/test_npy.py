import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from truepair.errors import DataError
from truepair.files.npy import load_array, npy_header, save_array


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "array.npy"


def test_the_header_tells_shape_type_and_where_values_start(path):
    array = np.arange(12, dtype=np.float16).reshape(3, 4)
    np.save(path, array)
    header = npy_header(path)
    assert (header.shape, header.dtype) == ((3, 4), np.float16)
    assert path.read_bytes()[header.offset :] == array.tobytes()


def test_version_2_headers_are_read(path):
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.arange(5), version=(2, 0))
    assert npy_header(path).shape == (5,)


def test_what_is_saved_is_loaded_and_no_partial_file_stays(path):
    array = np.arange(6).reshape(2, 3)
    save_array(path, array)
    save_array(path, array + 1)
    np.testing.assert_array_equal(load_array(path), array + 1)
    assert list(path.parent.iterdir()) == [path]


def test_an_array_in_fortran_order_is_saved_in_c_order(path):
    array = np.asfortranarray(np.arange(6).reshape(2, 3))
    save_array(path, array)
    np.testing.assert_array_equal(load_array(path), array)


def test_a_failed_save_leaves_the_old_file(tmp_path):
    with pytest.raises(DataError, match=r"could not write .*nowhere"):
        save_array(tmp_path / "nowhere" / "array.npy", np.arange(3))
    path = tmp_path / "array.npy"
    save_array(path, np.arange(3))
    with pytest.raises(DataError, match="would have to be pickled"):
        save_array(path, np.array([None]))
    np.testing.assert_array_equal(load_array(path), np.arange(3))


def test_a_disk_that_is_full_at_the_last_byte_leaves_the_old_file(path, tmp_path):
    """numpy's own writer buffers, and says nothing of what it could not write in the end."""
    save_array(path, np.arange(3))
    program = (
        "import resource, signal, sys; from pathlib import Path; import numpy as np\n"
        "from truepair.files.npy import save_array\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (895, 895))\n"
        "save_array(Path(sys.argv[1]), np.arange(96))"  # 896 bytes with the header
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert "DataError: could not write" in done.stderr
    np.testing.assert_array_equal(load_array(path), np.arange(3))


def test_a_header_that_numpy_cannot_parse_is_refused(path):
    save_array(path, np.arange(3))
    path.write_bytes(path.read_bytes().replace(b"}", b"(", 1))
    with pytest.raises(DataError, match=r"is not an .npy file of numbers"):
        npy_header(path)


def test_a_truncated_file_is_refused_with_its_size_and_the_size_it_needs(path):
    np.save(path, np.zeros((10, 4), dtype=np.float32))
    whole = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(whole - 1)
    with pytest.raises(DataError, match=rf"truncated: {whole - 1} bytes.*\(10, 4\) float32, which needs {whole}"):
        npy_header(path)


def test_pickles_are_refused_and_never_run(path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"not an .npy file"):
        load_array(path)
    np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="pickled objects, which are never loaded"):
        load_array(path)


def test_archives_empty_files_and_missing_files_are_refused(path):
    with path.open("wb") as file:
        np.savez(file, array=np.arange(3))
    with pytest.raises(DataError, match=r"not an .npy file"):
        npy_header(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"not an .npy file"):
        npy_header(path)
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*array.npy: No such file"):
        npy_header(path)


def test_fortran_order_is_refused(path):
    np.save(path, np.asfortranarray(np.zeros((2, 3))))
    with pytest.raises(DataError, match="Fortran order"):
        npy_header(path)
