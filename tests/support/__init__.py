"""What several tests share: how the program is started, faulty jobs, and data made for tests."""
