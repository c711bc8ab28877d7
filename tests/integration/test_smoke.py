def test_server(connection):
    assert connection.info.server_version >= 150000
